// What the products of packed bf16 pairs share: see pairs.cc for the layout.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "values.h"

#define BF16_CPU __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

constexpr int64_t kBlock = 16;

struct PairsJob {
  const uint16_t* x;  // [rows, width]
  const uint16_t* weight;
  const uint16_t* residual;  // [rows, outputs] or null
  void* out;                 // [rows, outputs], bf16 or f32
  int64_t rows, width, outputs;
  bool wide;  // f32 out
};

// Sixteen sums of a row, from `output` on, to where they belong: plus residual, rounded once.
BF16_CPU INLINE void finish(const PairsJob& job, int64_t row, int64_t output, __m512 sum) {
  const int64_t left = job.outputs - output;
  const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  const int64_t at = row * job.outputs + output;
  if (job.residual) {
    const __m256i narrow = _mm256_maskz_loadu_epi16(mask, job.residual + at);
    sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16)));
  }
  if (job.wide)
    _mm512_mask_storeu_ps(static_cast<float*>(job.out) + at, mask, sum);
  else
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(job.out) + at, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

// The product by AMX; only where amx_usable().
void pairs_by_tiles(const PairsJob& job);
// Room for so many values, of the calling thread's own until it asks again: it owns a stage, and keeps what its largest
// chunk of rows took. Made here for the kernels that are compiled for one CPU as a whole.
float* pairs_scratch(int64_t values);
// The product by AVX2 and FMA, and the packing of one block; at level 3 and above.
void pairs_by_avx2(const PairsJob& job);
void pairs_pack_by_avx2(const uint16_t* rows, int64_t stride, int64_t width, uint16_t* packed);
