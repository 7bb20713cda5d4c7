// bf16 linears for CPUs with AVX2 and FMA and without AVX512-BF16, on the weights as pairs.cc packs them. A pair's two
// values are taken apart by a shift and a mask, which gives two inputs of eight outputs in f32; x is widened once, before.
//
// Every output is one chain of fused products over the inputs in order, whatever the number of rows and wherever the
// work is split, so that a row's bits depend on that row alone. They differ from those of the other two kernels, which
// add products of pairs. Compiled for such a CPU as a whole, like panels_avx2.cc: no container and no inline function of
// a library, whose copy from here the linker might give to code for any CPU (a test holds it).
#include <immintrin.h>

#include "pairs.h"
#include "team.h"

namespace {

// Inputs that go through all rows before the next ones: of 16 outputs 16 KiB, which stay in the first level cache.
constexpr int64_t kPart = 512;
// Rows whose sums for a block fit the registers beside the block's weights. They lie side by side in a group of x:
// [inputs][lanes], which the product reads from front to back. Rows a power of two apart would share few sets of a cache.
constexpr int kLanes = 6;
// Groups of a chunk of many rows: one part of them, 384 KiB, stays in the second level cache for all blocks of a chunk.
constexpr int64_t kChunkGroups = 32;
// Blocks of a chunk of many rows.
constexpr int64_t kChunkBlocks = 4;

// The upper value of each pair. Words, not a vector: initialising one would run AVX on any CPU that loads the program.
alignas(32) constexpr uint32_t kHigh[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                           0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};

#define UNROLL _Pragma("GCC unroll 8")

template <int kRows, int kBlocks>
struct Sums {
  __m256 v[kRows][kBlocks][2];

  INLINE void zero() {
    UNROLL for (int r = 0; r < kRows; ++r)
      UNROLL for (int b = 0; b < kBlocks; ++b) v[r][b][0] = v[r][b][1] = _mm256_setzero_ps();
  }
};

// The first kRows of each kStride values of x, one for each row, times kBlocks blocks over `pairs` pairs of inputs, added
// to `sums`; weights come from memory if `kFar`. Unrolled to the last loop, or the sums would not be registers.
template <int kRows, int kStride, int kBlocks, bool kFar>
INLINE void multiply(const float* x, const uint16_t* weight, int64_t block_stride, int64_t pairs,
                     Sums<kRows, kBlocks>& sums) {
  const auto* high = reinterpret_cast<const __m256i*>(kHigh);
  __m256 sum[kRows][kBlocks][2];
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int b = 0; b < kBlocks; ++b)
      UNROLL for (int h = 0; h < 2; ++h) sum[r][b][h] = sums.v[r][b][h];
  for (int64_t p = 0; p < pairs; ++p, x += 2 * kStride, weight += 2 * kBlock) {
    // Six rows leave no register for the mask: the compiler must not know that it stays the same.
    __asm__("" : "+r"(high));
    UNROLL for (int b = 0; b < kBlocks; ++b) {
      const uint16_t* at = weight + b * block_stride;
      if (kFar) _mm_prefetch(reinterpret_cast<const char*>(at + 1024), _MM_HINT_NTA);
      const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + kBlock));
      const __m256 even0 = _mm256_castsi256_ps(_mm256_slli_epi32(w0, 16));
      const __m256 even1 = _mm256_castsi256_ps(_mm256_slli_epi32(w1, 16));
      UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256 v = _mm256_broadcast_ss(x + r);
        sum[r][b][0] = _mm256_fmadd_ps(even0, v, sum[r][b][0]);
        sum[r][b][1] = _mm256_fmadd_ps(even1, v, sum[r][b][1]);
      }
      const __m256 odd0 = _mm256_castsi256_ps(_mm256_and_si256(w0, *high));
      const __m256 odd1 = _mm256_castsi256_ps(_mm256_and_si256(w1, *high));
      UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256 v = _mm256_broadcast_ss(x + kStride + r);
        sum[r][b][0] = _mm256_fmadd_ps(odd0, v, sum[r][b][0]);
        sum[r][b][1] = _mm256_fmadd_ps(odd1, v, sum[r][b][1]);
      }
    }
  }
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int b = 0; b < kBlocks; ++b)
      UNROLL for (int h = 0; h < 2; ++h) sums.v[r][b][h] = sum[r][b][h];
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
INLINE void finish(const PairsJob& job, int64_t row, int64_t block, const Sums<kRows, kBlocks>& sums) {
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int b = 0; b < kBlocks; ++b) {
      finish8(job, row + r, (block + b) * kBlock, sums.v[r][b][0]);
      finish8(job, row + r, (block + b) * kBlock + 8, sums.v[r][b][1]);
    }
}

// A few rows, [inputs][kRows], all inputs at once.
template <int kRows, int kBlocks>
INLINE void few(const PairsJob& job, const float* x, int64_t block) {
  Sums<kRows, kBlocks> sums;
  sums.zero();
  multiply<kRows, kRows, kBlocks, true>(x, job.weight + block * kBlock * job.width, kBlock * job.width, job.width / 2,
                                        sums);
  finish(job, 0, block, sums);
}

void few_chunk(const PairsJob& job, const float* x, int64_t begin, int64_t end) {
  // One row has two chains of sums per block: four blocks of them hide how long a product takes.
  if (job.rows == 1)
    for (; begin + 4 <= end; begin += 4) few<1, 4>(job, x, begin);
  if (job.rows == 2)
    for (; begin + 2 <= end; begin += 2) few<2, 2>(job, x, begin);
  if (job.rows == 3)
    for (; begin + 2 <= end; begin += 2) few<3, 2>(job, x, begin);
  for (; begin < end; ++begin) switch (job.rows) {
      case 1: few<1, 1>(job, x, begin); break;
      case 2: few<2, 1>(job, x, begin); break;
      case 3: few<3, 1>(job, x, begin); break;
      case 4: few<4, 1>(job, x, begin); break;
      case 5: few<5, 1>(job, x, begin); break;
      default: few<6, 1>(job, x, begin); break;
    }
}

// Many rows: x as [parts][groups][inputs of the part][kLanes].
struct Groups {
  const float* values;
  int64_t count;

  const float* at(int64_t from, int64_t to, int64_t group) const {
    return values + (from * count + group * (to - from)) * kLanes;
  }
};

// kRows rows of a group with one part of the inputs; `kept` [kLanes][16] holds the sums between parts.
template <int kRows, bool kFar>
INLINE void part(const PairsJob& job, const float* x, int64_t row, int64_t block, int64_t from, int64_t to,
                 float* kept) {
  Sums<kRows, 1> sums;
  if (from == 0) {
    sums.zero();
  } else {
    UNROLL for (int r = 0; r < kRows; ++r)
      UNROLL for (int h = 0; h < 2; ++h) sums.v[r][0][h] = _mm256_loadu_ps(kept + r * kBlock + 8 * h);
  }
  multiply<kRows, kLanes, 1, kFar>(x, job.weight + block * kBlock * job.width + from * kBlock, 0, (to - from) / 2,
                                   sums);
  if (to == job.width) return finish(job, row, block, sums);
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int h = 0; h < 2; ++h) _mm256_storeu_ps(kept + r * kBlock + 8 * h, sums.v[r][0][h]);
}

// Groups begin..end times blocks first..last, kChunkGroups and kChunkBlocks at most.
void many_chunk(const PairsJob& job, const Groups& x, int64_t begin, int64_t end, int64_t first, int64_t last) {
  alignas(32) float kept[kChunkBlocks * kChunkGroups * kLanes * kBlock];  // 48 KiB, of which a chunk writes what it needs
  for (int64_t from = 0; from < job.width; from += kPart) {
    const int64_t to = from + kPart < job.width ? from + kPart : job.width;
    float* sums = kept;
    for (int64_t block = first; block < last; ++block)
      for (int64_t group = begin; group < end; ++group, sums += kLanes * kBlock) {
        const float* values = x.at(from, to, group);
        const int64_t row = group * kLanes;
        // The first group reads the weights from memory, the others from the first level cache.
        if (group == begin && job.rows - row >= kLanes)
          part<kLanes, true>(job, values, row, block, from, to, sums);
        else
          switch (job.rows - row) {
            case 1: part<1, false>(job, values, row, block, from, to, sums); break;
            case 2: part<2, false>(job, values, row, block, from, to, sums); break;
            case 3: part<3, false>(job, values, row, block, from, to, sums); break;
            case 4: part<4, false>(job, values, row, block, from, to, sums); break;
            case 5: part<5, false>(job, values, row, block, from, to, sums); break;
            default: part<kLanes, false>(job, values, row, block, from, to, sums); break;
          }
      }
  }
}

INLINE float wide(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// Inputs from..to of `rows` rows side by side, `lanes` apart.
void widen(const PairsJob& job, int64_t row, int64_t rows, int64_t from, int64_t to, int64_t lanes, float* values) {
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* x = job.x + (row + r) * job.width;
    for (int64_t i = from; i < to; ++i) values[(i - from) * lanes + r] = wide(x[i]);
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
  const int64_t blocks = (job.outputs + kBlock - 1) / kBlock, groups = (job.rows + kLanes - 1) / kLanes;
  float* x = pairs_scratch(job.width * (job.rows <= kLanes ? job.rows : groups * kLanes));
  if (job.rows <= kLanes) {
    widen(job, 0, job.rows, 0, job.width, job.rows, x);
    // Chunks of about 64 KiB: some microseconds, so that no thread waits long for another.
    int64_t chunk_blocks = (64 << 10) / (kBlock * job.width * 2) / 4 * 4;
    if (chunk_blocks < 4) chunk_blocks = 4;
    in_team((blocks + chunk_blocks - 1) / chunk_blocks, [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * chunk_blocks;
      few_chunk(job, x, chunk * chunk_blocks, end < blocks ? end : blocks);
    });
    return;
  }
  const Groups packed{x, groups};
  in_team(groups, [&](int64_t group) {
    const int64_t row = group * kLanes, rows = job.rows - row < kLanes ? job.rows - row : kLanes;
    for (int64_t from = 0; from < job.width; from += kPart) {
      const int64_t to = from + kPart < job.width ? from + kPart : job.width;
      widen(job, row, rows, from, to, kLanes, x + (packed.at(from, to, group) - x));
    }
  });
  const int64_t across = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  const int64_t down = (groups + kChunkGroups - 1) / kChunkGroups;
  in_team(across * down, [&](int64_t chunk) {
    const int64_t begin = chunk % down * kChunkGroups, block = chunk / down * kChunkBlocks;
    const int64_t end = begin + kChunkGroups < groups ? begin + kChunkGroups : groups;
    const int64_t last = block + kChunkBlocks < blocks ? block + kChunkBlocks : blocks;
    many_chunk(job, packed, begin, end, block, last);
  });
}
