// The output head: bf16 rows times the bf16 embedding table, logits in f32.
//
// oneDNN would round the logits to bf16's 8 bits, which makes ties of the best candidates common;
// and the table can be the very one that embeds. A logit's bits depend on its two rows alone.
#include "values.h"

namespace {

template <int kRows>
INLINE void rows_times_table(const Bf16* x, const Bf16* table, float* out, int64_t width, int64_t begin, int64_t end,
                             int64_t vocab) {
  for (int64_t token = begin; token < end; ++token) {
    const Bf16* w = table + token * width;
    F32x16 sum[kRows] = {};
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) {
      F32x16 b;
      load16(w + i, b);
      for (int r = 0; r < kRows; ++r) {
        F32x16 a;
        load16(x + r * width + i, a);
        sum[r] += a * b;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      float tail = 0;
      for (int64_t t = i; t < width; ++t) tail += load(x + r * width + t) * load(w + t);
      out[r * vocab + token] = sum16(sum[r]) + tail;
    }
  }
}

EVERY_CPU void part(const Bf16* x, const Bf16* table, float* out, int64_t rows, int64_t width, int64_t begin,
                    int64_t end, int64_t vocab) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    rows_times_table<4>(x + r * width, table, out + r * vocab, width, begin, end, vocab);
  for (; r < rows; ++r) rows_times_table<1>(x + r * width, table, out + r * vocab, width, begin, end, vocab);
}

}  // namespace

extern "C" {

// out [rows, vocab] = x [rows, width] times table [vocab, width], on up to `threads` threads.
void ll_head(const void* x, const void* table, float* out, int64_t rows, int64_t width, int64_t vocab,
             int threads) {
  constexpr int64_t kPart = 256;  // a part of the table stays in the second-level cache for all rows
  const int64_t parts = (vocab + kPart - 1) / kPart;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t begin = p * kPart, end = begin + kPart < vocab ? begin + kPart : vocab;
    part(static_cast<const Bf16*>(x), static_cast<const Bf16*>(table), out, rows, width, begin, end, vocab);
  }
}

}  // extern "C"
