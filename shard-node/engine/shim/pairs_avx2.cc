// bf16 linears for CPUs with AVX2 and FMA and without AVX512-BF16, on the weights as pairs.cc packs them. A pair's two
// values are taken apart by a shift and a mask, which gives two inputs of eight outputs in f32; x is widened once, before.
//
// Every output is one chain of fused products over the inputs in order, whatever the number of rows and wherever the
// work is split, so that a row's bits depend on that row alone. They differ from those of the other two kernels, which
// add products of pairs. Compiled for such a CPU as a whole, like panels_avx2.cc.
#include <immintrin.h>

#include <vector>

#include "pairs.h"
#include "team.h"

namespace {

// Inputs that go through all rows before the next ones: of 16 outputs 16 KiB, which stay in the first level cache.
constexpr int64_t kPart = 512;
// Rows of a chunk of many: one part of them as f32, 384 KiB, stays in the second level cache for all blocks of a chunk.
constexpr int64_t kTileRows = 192;
// Rows whose sums for a block fit the registers beside the block's weights.
constexpr int64_t kFewRows = 6;
// Blocks of a chunk of many rows.
constexpr int64_t kChunkBlocks = 4;

// kRows rows, `width` values apart, times kBlocks blocks over `pairs` pairs of inputs, added to `sum`.
template <int kRows, int kBlocks>
INLINE void multiply(const float* x, int64_t width, const uint16_t* weight, int64_t block_stride, int64_t pairs,
                     __m256 (&sum)[kRows][kBlocks][2]) {
  const __m256i high = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  for (int64_t p = 0; p < pairs; ++p) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const uint16_t* at = weight + b * block_stride + p * 2 * kBlock;
      if (kRows <= 2) _mm_prefetch(reinterpret_cast<const char*>(at + 1024), _MM_HINT_NTA);
      const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + kBlock));
      const __m256 even0 = _mm256_castsi256_ps(_mm256_slli_epi32(w0, 16));
      const __m256 even1 = _mm256_castsi256_ps(_mm256_slli_epi32(w1, 16));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m256 v = _mm256_broadcast_ss(x + r * width + 2 * p);
        sum[r][b][0] = _mm256_fmadd_ps(even0, v, sum[r][b][0]);
        sum[r][b][1] = _mm256_fmadd_ps(even1, v, sum[r][b][1]);
      }
      const __m256 odd0 = _mm256_castsi256_ps(_mm256_and_si256(w0, high));
      const __m256 odd1 = _mm256_castsi256_ps(_mm256_and_si256(w1, high));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m256 v = _mm256_broadcast_ss(x + r * width + 2 * p + 1);
        sum[r][b][0] = _mm256_fmadd_ps(odd0, v, sum[r][b][0]);
        sum[r][b][1] = _mm256_fmadd_ps(odd1, v, sum[r][b][1]);
      }
    }
  }
}

// Eight sums to bf16, rounded to nearest even; a NaN stays one.
INLINE __m128i narrowed(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

INLINE __m256 widened(const uint16_t* values) {
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

// Eight sums of a row, from `output` on, to where they belong: plus residual, rounded once.
INLINE void finish8(const PairsJob& job, int64_t row, int64_t output, __m256 sum) {
  const int64_t left = job.outputs - output;
  if (left <= 0) return;
  const int64_t at = row * job.outputs + output;
  if (left >= 8) {
    if (job.residual) sum = _mm256_add_ps(sum, widened(job.residual + at));
    if (job.wide)
      _mm256_storeu_ps(static_cast<float*>(job.out) + at, sum);
    else
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(job.out) + at), narrowed(sum));
    return;
  }
  // The last outputs, by way of a whole vector.
  uint16_t narrow[8] = {};
  float wide[8];
  if (job.residual) {
    std::memcpy(narrow, job.residual + at, left * 2);
    sum = _mm256_add_ps(sum, widened(narrow));
  }
  if (job.wide) {
    _mm256_storeu_ps(wide, sum);
    std::memcpy(static_cast<float*>(job.out) + at, wide, left * 4);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(narrow), narrowed(sum));
    std::memcpy(static_cast<uint16_t*>(job.out) + at, narrow, left * 2);
  }
}

template <int kRows, int kBlocks>
INLINE void finish(const PairsJob& job, int64_t row, int64_t block, const __m256 (&sum)[kRows][kBlocks][2]) {
  for (int r = 0; r < kRows; ++r)
    for (int b = 0; b < kBlocks; ++b) {
      finish8(job, row + r, (block + b) * kBlock, sum[r][b][0]);
      finish8(job, row + r, (block + b) * kBlock + 8, sum[r][b][1]);
    }
}

// A few rows: all inputs at once.
template <int kRows, int kBlocks>
INLINE void few(const PairsJob& job, const float* x, int64_t block) {
  __m256 sum[kRows][kBlocks][2];
  for (auto& r : sum)
    for (auto& b : r) b[0] = b[1] = _mm256_setzero_ps();
  multiply<kRows, kBlocks>(x, job.width, job.weight + block * kBlock * job.width, kBlock * job.width, job.width / 2,
                           sum);
  finish(job, 0, block, sum);
}

void few_chunk(const PairsJob& job, const float* x, int64_t begin, int64_t end) {
  // One row has two chains of sums per block: four blocks of them hide how long a product takes.
  if (job.rows == 1)
    for (; begin + 4 <= end; begin += 4) few<1, 4>(job, x, begin);
  if (job.rows == 2)
    for (; begin + 2 <= end; begin += 2) few<2, 2>(job, x, begin);
  for (; begin < end; ++begin) switch (job.rows) {
      case 1: few<1, 1>(job, x, begin); break;
      case 2: few<2, 1>(job, x, begin); break;
      case 3: few<3, 1>(job, x, begin); break;
      case 4: few<4, 1>(job, x, begin); break;
      case 5: few<5, 1>(job, x, begin); break;
      default: few<6, 1>(job, x, begin); break;
    }
}

// Rows row..row + kRows with one part of the inputs; `kept` [kRows][16] holds the sums between parts.
template <int kRows>
INLINE void part(const PairsJob& job, const float* x, int64_t row, int64_t block, int64_t from, int64_t to,
                 float* kept) {
  __m256 sum[kRows][1][2];
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < 2; ++h)
      sum[r][0][h] = from == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(kept + r * kBlock + 8 * h);
  multiply<kRows, 1>(x + row * job.width + from, job.width, job.weight + block * kBlock * job.width + from * kBlock, 0,
                     (to - from) / 2, sum);
  if (to == job.width) return finish(job, row, block, sum);
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < 2; ++h) _mm256_storeu_ps(kept + r * kBlock + 8 * h, sum[r][0][h]);
}

void many_chunk(const PairsJob& job, const float* x, int64_t begin, int64_t end, int64_t first, int64_t last) {
  thread_local std::vector<float> kept;  // bounded by kChunkBlocks * kTileRows * 16 floats
  kept.resize((last - first) * (end - begin) * kBlock);
  for (int64_t from = 0; from < job.width; from += kPart) {
    const int64_t to = from + kPart < job.width ? from + kPart : job.width;
    float* sums = kept.data();
    for (int64_t block = first; block < last; ++block) {
      int64_t row = begin;
      for (; row + 6 <= end; row += 6, sums += 6 * kBlock) part<6>(job, x, row, block, from, to, sums);
      switch (end - row) {
        case 5: part<5>(job, x, row, block, from, to, sums); break;
        case 4: part<4>(job, x, row, block, from, to, sums); break;
        case 3: part<3>(job, x, row, block, from, to, sums); break;
        case 2: part<2>(job, x, row, block, from, to, sums); break;
        case 1: part<1>(job, x, row, block, from, to, sums); break;
        default: break;
      }
      sums += (end - row) * kBlock;
    }
  }
}

// bf16 values `from`..`to` of x as f32.
void widen(const uint16_t* x, float* wide, int64_t from, int64_t to) {
  for (; from + 8 <= to; from += 8) _mm256_storeu_ps(wide + from, widened(x + from));
  for (; from < to; ++from) {
    const uint32_t bits = static_cast<uint32_t>(x[from]) << 16;
    std::memcpy(wide + from, &bits, 4);
  }
}

}  // namespace

void pairs_pack_by_avx2(const uint16_t* rows, int64_t stride, int64_t width, uint16_t* packed) {
  const __m256i step = _mm256_set1_epi32(static_cast<int32_t>(stride));
  const __m256i low = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), step);
  const __m256i up = _mm256_mullo_epi32(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15), step);
  for (int64_t i = 0; i < width; i += 2) {
    const int* at = reinterpret_cast<const int*>(rows + i);
    auto* to = reinterpret_cast<__m256i*>(packed + i * kBlock);
    _mm256_storeu_si256(to, _mm256_i32gather_epi32(at, low, 2));
    _mm256_storeu_si256(to + 1, _mm256_i32gather_epi32(at, up, 2));
  }
}

void pairs_by_avx2(const PairsJob& job) {
  const int64_t blocks = (job.outputs + kBlock - 1) / kBlock, values = job.rows * job.width;
  thread_local std::vector<float> scratch;  // of the thread that owns the stage: as large as its largest chunk of rows
  if (static_cast<int64_t>(scratch.size()) < values) scratch.resize(values);
  float* x = scratch.data();
  constexpr int64_t kPiece = 1 << 16;
  in_team((values + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t to = (piece + 1) * kPiece;
    widen(job.x, x, piece * kPiece, to < values ? to : values);
  });
  if (job.rows <= kFewRows) {
    // Chunks of about 64 KiB: some microseconds, so that no thread waits long for another.
    int64_t group = (64 << 10) / (kBlock * job.width * 2) / 4 * 4;
    if (group < 4) group = 4;
    in_team((blocks + group - 1) / group, [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * group;
      few_chunk(job, x, chunk * group, end < blocks ? end : blocks);
    });
    return;
  }
  const int64_t groups = (blocks + kChunkBlocks - 1) / kChunkBlocks, tiles = (job.rows + kTileRows - 1) / kTileRows;
  in_team(groups * tiles, [&](int64_t chunk) {
    const int64_t first = chunk % tiles * kTileRows, block = chunk / tiles * kChunkBlocks;
    const int64_t last = first + kTileRows < job.rows ? first + kTileRows : job.rows;
    const int64_t end = block + kChunkBlocks < blocks ? block + kChunkBlocks : blocks;
    many_chunk(job, x, first, last, block, end);
  });
}
