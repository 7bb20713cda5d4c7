// The output head: rows times the bf16 embedding table, logits in f32.
//
// For CPUs that do not multiply pairs of bf16 (pairs.cc is the head of those that do). oneDNN would round the logits to bf16's 8 bits, which makes ties of the best candidates common;
// and the table can be the very one that embeds. A logit's bits depend on its two rows alone.
//
// 32 bf16 values are read as 16 words: shifted left they are the even values, masked the odd ones.
// So each row of x is dealt out the same way first, evens then odds of every 32.
#include <vector>

#include "team.h"
#include "values.h"

namespace {

constexpr int64_t kDeal = 32;

// One row of the table times kRows dealt rows of x; `out` is the token's logit in the first row.
template <int kRows>
INLINE void tile(const float* x, const Bf16* token, float* out, int64_t width, int64_t vocab) {
  F32x16 sum[kRows] = {};
  int64_t i = 0;
  for (; i + kDeal <= width; i += kDeal) {
    U32x16 words;
    std::memcpy(&words, token + i, 64);
    const F32x16 even = reinterpret_cast<F32x16>(words << 16);
    const F32x16 odd = reinterpret_cast<F32x16>(words & 0xffff0000u);
    for (int r = 0; r < kRows; ++r) {
      F32x16 a, b;
      load16(x + r * width + i, a);
      load16(x + r * width + i + 16, b);
      sum[r] += a * even;
      sum[r] += b * odd;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float tail = 0;
    for (int64_t j = i; j < width; ++j) tail += x[r * width + j] * load(token + j);
    out[r * vocab] = sum16(sum[r]) + tail;
  }
}

template <int kRows>
INLINE void tiles(const float* x, const Bf16* table, float* out, int64_t width, int64_t begin, int64_t end,
                  int64_t vocab) {
  // One token at a time, although two would save loads of x: a single stream of the table is what the
  // prefetcher follows (2 tokens: 8.9 ms for 4 rows of the demo model's table).
  for (int64_t token = begin; token < end; ++token)
    tile<kRows>(x, table + token * width, out + token, width, vocab);
}

INLINE void part_any(const float* x, const Bf16* table, float* out, int64_t rows, int64_t width, int64_t begin,
                     int64_t end, int64_t vocab) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) tiles<8>(x + r * width, table, out + r * vocab, width, begin, end, vocab);
  for (; r + 4 <= rows; r += 4) tiles<4>(x + r * width, table, out + r * vocab, width, begin, end, vocab);
  for (; r < rows; ++r) tiles<1>(x + r * width, table, out + r * vocab, width, begin, end, vocab);
}

EVERY_CPU(part,
          (const float* x, const Bf16* table, float* out, int64_t rows, int64_t width, int64_t begin, int64_t end,
           int64_t vocab),
          (x, table, out, rows, width, begin, end, vocab))

std::vector<float> dealt(const float* x, int64_t rows, int64_t width) {
  std::vector<float> out(x, x + rows * width);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i + kDeal <= width; i += kDeal)
      for (int64_t j = 0; j < kDeal; ++j) out[r * width + i + j / 2 + (j % 2) * 16] = x[r * width + i + j];
  return out;
}

}  // namespace

extern "C" {

// out [rows, vocab] = x f32 [rows, width] times table bf16 [vocab, width], by the team.
void ll_head(const float* x, const void* table, float* out, int64_t rows, int64_t width, int64_t vocab) {
  constexpr int64_t kPart = 64;  // tokens: a part stays in the second level cache for all rows
  const std::vector<float> rows_dealt = dealt(x, rows, width);
  const auto compute = part();
  in_team((vocab + kPart - 1) / kPart, [&](int64_t p) {
    const int64_t begin = p * kPart, end = begin + kPart < vocab ? begin + kPart : vocab;
    compute(rows_dealt.data(), static_cast<const Bf16*>(table), out, rows, width, begin, end, vocab);
  });
}

}  // extern "C"
