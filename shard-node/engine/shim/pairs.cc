// bf16 linears for CPUs with AVX512-BF16, for any number of rows; those with AMX multiply in pairs_amx.cc, those with
// AVX2 only in pairs_avx2.cc.
//
// Layout of a packed weight [out, in]: blocks of 16 outputs, and in a block, for each pair of inputs, that pair of all
// 16 outputs: 64 bytes that one vdpbf16ps multiplies by one pair of x. A step reads a weight as a few sequential
// streams. Every output is one chain of sums over the inputs in order, whatever the number of rows and wherever the
// work is split, so that a row's bits depend on that row alone.
#include "pairs.h"

#include <cstring>
#include <vector>

#include "amx.h"
#include "team.h"

namespace {

// Inputs that go through all rows before the next ones: 64 outputs of them are 128 KiB, which stays in the second
// level cache.
constexpr int64_t kPart = 1024;

// kRows rows times kBlocks blocks over `pairs` pairs of inputs, added to `sum`.
template <int kRows, int kBlocks>
BF16_CPU INLINE void multiply(const uint16_t* x, int64_t width, const uint16_t* weight, int64_t block_stride,
                              int64_t pairs, __m512 (&sum)[kRows][kBlocks]) {
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh w[kBlocks];
    for (int b = 0; b < kBlocks; ++b) {
      const uint16_t* at = weight + b * block_stride + p * 32;
      if (kRows <= 2) _mm_prefetch(reinterpret_cast<const char*>(at + 1024), _MM_HINT_NTA);
      w[b] = (__m512bh)_mm512_loadu_si512(at);
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + r * width + 2 * p, 4);
      const __m512bh v = (__m512bh)_mm512_set1_epi32(pair);
      for (int b = 0; b < kBlocks; ++b) sum[r][b] = _mm512_dpbf16_ps(sum[r][b], w[b], v);
    }
  }
}

// A few rows: all inputs at once.
template <int kRows, int kBlocks>
BF16_CPU INLINE void few(const PairsJob& job, int64_t row, int64_t block) {
  __m512 sum[kRows][kBlocks];
  for (auto& r : sum)
    for (auto& b : r) b = _mm512_setzero_ps();
  multiply<kRows, kBlocks>(job.x + row * job.width, job.width, job.weight + block * kBlock * job.width,
                           kBlock * job.width, job.width / 2, sum);
  for (int r = 0; r < kRows; ++r)
    for (int b = 0; b < kBlocks; ++b) finish(job, row + r, (block + b) * kBlock, sum[r][b]);
}

template <int kBlocks>
BF16_CPU INLINE void few_rows(const PairsJob& job, int64_t block) {
  switch (job.rows) {
    case 1: return few<1, kBlocks>(job, 0, block);
    case 2: return few<2, kBlocks>(job, 0, block);
    case 3: return few<3, kBlocks>(job, 0, block);
    case 4: return few<4, kBlocks>(job, 0, block);
    case 5: return few<5, kBlocks>(job, 0, block);
    default: return few<6, kBlocks>(job, 0, block);
  }
}

// Rows begin..begin + kRows of a tile with one part of the inputs; `kept` [rows of the tile][kBlocks * 16] holds the
// sums between parts.
template <int kRows, int kBlocks>
BF16_CPU INLINE void part(const PairsJob& job, int64_t row, int64_t block, int64_t from, int64_t to, float* kept) {
  __m512 sum[kRows][kBlocks];
  for (int r = 0; r < kRows; ++r)
    for (int b = 0; b < kBlocks; ++b)
      sum[r][b] = from == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(kept + (r * kBlocks + b) * 16);
  multiply<kRows, kBlocks>(job.x + row * job.width + from, job.width,
                           job.weight + block * kBlock * job.width + from * kBlock, kBlock * job.width, (to - from) / 2,
                           sum);
  for (int r = 0; r < kRows; ++r)
    for (int b = 0; b < kBlocks; ++b)
      if (to == job.width)
        finish(job, row + r, (block + b) * kBlock, sum[r][b]);
      else
        _mm512_storeu_ps(kept + (r * kBlocks + b) * 16, sum[r][b]);
}

template <int kBlocks>
BF16_CPU INLINE void tile(const PairsJob& job, int64_t begin, int64_t end, int64_t block, std::vector<float>& kept) {
  kept.resize((end - begin) * kBlocks * 16);
  for (int64_t from = 0; from < job.width; from += kPart) {
    const int64_t to = from + kPart < job.width ? from + kPart : job.width;
    int64_t row = begin;
    float* sums = kept.data();
    for (; row + 6 <= end; row += 6, sums += 6 * kBlocks * 16) part<6, kBlocks>(job, row, block, from, to, sums);
    switch (end - row) {
      case 5: part<5, kBlocks>(job, row, block, from, to, sums); break;
      case 4: part<4, kBlocks>(job, row, block, from, to, sums); break;
      case 3: part<3, kBlocks>(job, row, block, from, to, sums); break;
      case 2: part<2, kBlocks>(job, row, block, from, to, sums); break;
      case 1: part<1, kBlocks>(job, row, block, from, to, sums); break;
      default: break;
    }
  }
}

constexpr int64_t kFewRows = 6;

BF16_CPU void few_chunk(const PairsJob& job, int64_t begin, int64_t end) {
  // One row has one chain of sums per block: eight of them hide how long a product takes.
  if (job.rows == 1)
    for (; begin + 8 <= end; begin += 8) few<1, 8>(job, 0, begin);
  for (; begin + 4 <= end; begin += 4) few_rows<4>(job, begin);
  for (; begin < end; ++begin) few_rows<1>(job, begin);
}

BF16_CPU void many_chunk(const PairsJob& job, int64_t first_row, int64_t last_row, int64_t block, int64_t blocks) {
  thread_local std::vector<float> kept;  // bounded by kTileRows * 64 floats
  if (block + 4 <= blocks) return tile<4>(job, first_row, last_row, block, kept);
  for (; block < blocks; ++block) tile<1>(job, first_row, last_row, block, kept);
}

// Rows of a tile: their sums, 256 bytes a row, stay in the second level cache beside the weights.
constexpr int64_t kTileRows = 192;

// A gather takes one pair of all rows; a stride that is no multiple of 4 KiB keeps them all in the first level cache.
BF16_CPU void pack_block(const uint16_t* rows, int64_t stride, int64_t width, uint16_t* packed) {
  const __m512i lanes = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(stride));
  for (int64_t i = 0; i < width; i += 2)
    _mm512_storeu_si512(packed + i * kBlock, _mm512_i32gather_epi32(lanes, rows + i, 2));
}

bool has_bf16() {
  __builtin_cpu_init();
  return ll_cpu_level() >= kLevel4 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

float* pairs_scratch(int64_t values) {
  thread_local std::vector<float> scratch;
  if (static_cast<int64_t>(scratch.size()) < values) scratch.resize(values);
  return scratch.data();
}

extern "C" {

// Whether this CPU multiplies pairs: 2 with instructions for them, 1 with AVX2 and FMA, 0 not at all.
int ll_pairs_supported() { return has_bf16() ? 2 : ll_cpu_level() >= kLevel3; }

// Packs one block: 16 rows of `width` values, an even number, that lie `stride` values apart.
void ll_pairs_pack_block(const uint16_t* rows, int64_t stride, int64_t width, uint16_t* packed) {
  if (has_bf16()) return pack_block(rows, stride, width, packed);
  pairs_pack_by_avx2(rows, stride, width, packed);
}

// out [rows, outputs] = x [rows, width] times the packed weight, plus residual [rows, outputs] if there is one; bf16,
// or f32 out if `wide`.
void ll_pairs(const uint16_t* x, const uint16_t* packed, const uint16_t* residual, void* out, int64_t rows,
              int64_t width, int64_t outputs, int wide) {
  if (rows == 0) return;  // the kernels have no case of none
  const PairsJob job{x, packed, residual, out, rows, width, outputs, wide != 0};
  if (!has_bf16()) return pairs_by_avx2(job);
  if (amx_usable()) return pairs_by_tiles(job);
  const int64_t blocks = (outputs + kBlock - 1) / kBlock;
  if (rows <= kFewRows) {
    // Chunks of about 64 KiB: some microseconds, so that no thread waits long for another.
    int64_t group = (64 << 10) / (kBlock * width * 2) / 4 * 4;
    if (group < 4) group = 4;
    in_team((blocks + group - 1) / group, [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * group;
      few_chunk(job, chunk * group, end < blocks ? end : blocks);
    });
    return;
  }
  const int64_t groups = (blocks + 3) / 4, tiles = (rows + kTileRows - 1) / kTileRows;
  in_team(groups * tiles, [&](int64_t chunk) {
    const int64_t first = chunk % tiles * kTileRows, block = chunk / tiles * 4;
    const int64_t last = first + kTileRows < rows ? first + kTileRows : rows;
    many_chunk(job, first, last, block, blocks);
  });
}

}  // extern "C"
