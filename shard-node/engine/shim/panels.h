// Quantised matrices in panels of 16 output rows, and the product that reads them.
//
// A panel lies so that one stream of loads feeds every multiplication: four values of each of the 16
// rows make 64 bytes, and the next four follow. Widths are padded to whole groups of 32.
//
//   int8: [width / 4][16 rows][4] bytes, value = scale[row] * (byte - 128).
//   int4: for each group of 32: [4][16 rows][4] bytes of nibbles, [16 rows] f16 scales and, with kInt4Min,
//         [16 rows] f16 minima. A low nibble is one of values 0 to 15 and the high nibble of the same byte the
//         value 16 further on, as in GGUF's blocks: value = scale * nibble + minimum; without minima it is
//         -8 scale.
//
// Rows of x are int8 as well, with a scale for each group of 32. (One scale for a whole row is faster by a sixth
// with many rows, and useless: real models have single values a hundred times the others.) Sums over the int32
// of a group are exact in any order, and what follows them has one order, so a row's bits depend neither on its
// index nor on the rows beside it.
#pragma once
#include "values.h"

constexpr int64_t kPanelRows = 16;
constexpr int64_t kGroup = 32;
// Bytes between the rows of rounded x: a line more than the width, or the rows of many a model would all
// lie in the same few sets of the first-level cache.
constexpr int64_t x_stride(int64_t padded) { return padded + 64; }
// Most rows of a product that the kernels of tiles take at once.
constexpr int64_t kTileRowsAtOnce = 528;
constexpr int64_t kNibbleBytes = kPanelRows * kGroup / 2;
constexpr int64_t kScaleBytes = kPanelRows * 2;
constexpr int64_t group_bytes(bool has_min) { return kNibbleBytes + kScaleBytes * (has_min ? 2 : 1); }

enum Format { kInt8 = 0, kInt4 = 1, kInt4Min = 2 };

// y [rows, out] = x times the panels, plus `residual` unless that is null.
struct Product {
  const uint8_t* panels;
  int64_t panel_bytes;
  const float* scales;  // int8: of each output row, padded to whole panels
  int64_t out;
  const int8_t* x;  // [rows, stride], `width` of a row in use
  int64_t rows;
  int64_t stride;
  int64_t width;         // padded
  const float* x_scale;  // [rows, width / 32]
  const float* x_total;  // [rows, width / 32], the sum of a group's values times its scale
  const int32_t* x_sum;  // [rows, width / 32], the sum of its values
  // Rows of a block, where tiles multiply; else 0. Then x is [rows / block, width / 32, block, 32] and what
  // belongs to its groups [rows / block, width / 32, block], with whole blocks in memory.
  int64_t block;
  const void* residual;  // of y's type
  void* y;
  int bf16;  // y's type, else f32
};

// Multiplies panels [first, last). One for each format and level of vectors.
typedef void PanelKernel(const Product& p, int64_t first, int64_t last);
PanelKernel int8_plain, int4_plain, int4_min_plain;
PanelKernel int8_avx2, int4_avx2, int4_min_avx2;
PanelKernel int8_avx512, int4_avx512, int4_min_avx512;
// Of blocks of 4, 8 or 12 rows, kTileRowsAtOnce at most; see panels_amx.cc.
PanelKernel int8_amx, int4_amx, int4_min_amx;
bool amx_was_compiled();

static INLINE void store16(float* p, F32x16 v) { std::memcpy(p, &v, 64); }
// As store() of one value.
static INLINE void store16(Bf16* p, F32x16 v) {
  U32x16 u;
  std::memcpy(&u, &v, 64);
  const U32x16 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
  // Of a NaN all bits, without a comparison, which GCC takes apart value by value where vectors are narrower.
  const U32x16 nan = reinterpret_cast<U32x16>(reinterpret_cast<I32x16>(0x7f800000u - (u & 0x7fffffffu)) >> 31);
  const U16x16 narrow = __builtin_convertvector((quiet & nan) | (rounded & ~nan), U16x16);
  std::memcpy(p, &narrow, 32);
}

template <class T>
static INLINE void finish(const Product& p, int64_t row, int64_t panel, F32x16 v) {
  const int64_t first = panel * kPanelRows, at = row * p.out + first;
  T* y = static_cast<T*>(p.y) + at;
  const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + at;
  if (first + kPanelRows <= p.out) {
    if (residual != nullptr) {
      F32x16 add;
      load16(residual, add);
      v += add;
    }
    store16(y, v);
    return;
  }
  for (int64_t i = 0; i < p.out - first; ++i) store(y + i, residual != nullptr ? v[i] + load(residual + i) : v[i]);
}

// Sixteen results of a row: adds the residual, rounds, writes.
static INLINE void finish16(const Product& p, int64_t row, int64_t panel, F32x16 v) {
  if (p.bf16)
    finish<Bf16>(p, row, panel, v);
  else
    finish<float>(p, row, panel, v);
}

// The sums of an int8 panel to results.
static INLINE void finish_int8(const Product& p, int64_t row, int64_t panel, F32x16 sums) {
  F32x16 scale;
  load16(p.scales + panel * kPanelRows, scale);
  finish16(p, row, panel, sums * scale);
}
