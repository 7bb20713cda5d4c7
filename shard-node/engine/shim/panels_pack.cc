// Rounds 16 rows of a matrix to a panel. Each row has a lane of its own, so sums go value by value in one order and
// the bytes are the same with any vectors. See panels.h for the layouts; 4 bits are as in src/quantise/int4.rs.
//
// Compiled with -ffp-contract=off, as rows.cc is and for the same reason.
#include "panels.h"

#include <cmath>

namespace {

typedef int32_t I32x16 __attribute__((vector_size(64)));

constexpr float kLargestHalf = 65504.0f;
// Attempts at a group, the first from its range.
constexpr int kAttempts = 3;

INLINE F32x16 all(float f) { return f - F32x16{}; }
INLINE U32x16 bits_of(F32x16 v) { return reinterpret_cast<U32x16>(v); }
INLINE F32x16 of_bits(U32x16 v) { return reinterpret_cast<F32x16>(v); }
INLINE F32x16 least(F32x16 a, F32x16 b) { return a < b ? a : b; }
INLINE F32x16 most(F32x16 a, F32x16 b) { return a > b ? a : b; }
// Of a NaN, a NaN.
INLINE F32x16 clamp(F32x16 v, float low, float high) {
  v = v < all(low) ? all(low) : v;
  return v > all(high) ? all(high) : v;
}

// f16 in the low half of each lane, to nearest even, of what is no larger than an f16 may be; and its value.
// Numbers below 2^-14 are aligned by a sum with 1/2, whose last bit is 2^-24. A NaN stays one in `value` only.
INLINE U32x16 to_half(F32x16 v, F32x16& value) {
  const U32x16 bits = bits_of(v), sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
  const U32x16 large = ((size + 0xfffu + ((size >> 13) & 1u)) & ~0x1fffu), small = bits_of(of_bits(size) + 0.5f) - 0x3f000000u;
  const I32x16 is_small = size < (113u << 23) - U32x16{};
  const F32x16 small_value = __builtin_convertvector(reinterpret_cast<I32x16>(small), F32x16) * 0x1p-24f;
  const F32x16 rounded = of_bits((is_small ? bits_of(small_value) : large) | sign);
  value = v == v ? rounded : v;
  return (is_small ? small : (large >> 13) - (112u << 10)) | sign >> 16;
}

// Sixteen rows by sixteen columns to columns by rows.
INLINE void transpose(F32x16* v) {
  constexpr U32x16 kLow1 = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
  constexpr U32x16 kLow2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
  constexpr U32x16 kLow4 = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27};
  constexpr U32x16 kLow8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
#define EXCHANGE(BY, LOW)                                            \
  for (int i = 0; i < 16; ++i)                                       \
    if ((i & BY) == 0) {                                             \
      const F32x16 a = v[i], b = v[i + BY];                          \
      v[i] = __builtin_shuffle(a, b, LOW);                           \
      v[i + BY] = __builtin_shuffle(a, b, LOW + static_cast<uint32_t>(BY)); \
    }
  EXCHANGE(1, kLow1)
  EXCHANGE(2, kLow2)
  EXCHANGE(4, kLow4)
  EXCHANGE(8, kLow8)
#undef EXCHANGE
}

// Up to 16 columns from `at` on, a row in each lane; the rest are zeros.
INLINE void columns16(const float* x, int64_t width, int64_t at, F32x16* v) {
  for (int64_t row = 0; row < kPanelRows; ++row) {
    if (at + 16 <= width) {
      load16(x + row * width + at, v[row]);
    } else {
      v[row] = F32x16{};
      for (int64_t i = 0; i < width - at; ++i) v[row][i] = x[row * width + at + i];
    }
  }
  transpose(v);
}

INLINE void pack_int8_any(const float* x, int64_t width, uint8_t* panel, float* scales) {
  F32x16 largest = {};
  for (int64_t row = 0; row < kPanelRows; ++row) {
    const float* values = x + row * width;
    F32x16 size = {};
    int64_t at = 0;
    for (; at + 16 <= width; at += 16) {
      F32x16 v;
      load16(values + at, v);
      size = most(size, of_bits(bits_of(v) & 0x7fffffffu));
    }
    float one = 0.0f;
    for (int i = 0; i < 16; ++i) one = size[i] > one ? size[i] : one;
    for (; at < width; ++at) one = std::fabs(values[at]) > one ? std::fabs(values[at]) : one;
    largest[row] = one;
  }
  const F32x16 scale = largest / 127.0f;
  const I32x16 is_some = scale > all(1.17549435e-38f);
  const F32x16 inverse = is_some ? 1.0f / scale : F32x16{};
  store16(scales, is_some ? scale : F32x16{});
  for (int64_t at = 0; at < width; at += 16) {
    F32x16 v[16];
    columns16(x, width, at, v);
    for (int64_t four = 0; four < 4 && at + 4 * four < width; ++four) {
      U32x16 bytes = {};
      for (int64_t i = 0; i < 4 && at + 4 * four + i < width; ++i) {
        // 1.5 * 2^23: the sum is rounded to an integer, to nearest even, which its low bits then are.
        const U32x16 rounded = bits_of(clamp(v[4 * four + i] * inverse, -127.0f, 127.0f) + 12582912.0f);
        bytes |= ((rounded + 128u) & 255u) << static_cast<uint32_t>(8 * i);
      }
      std::memcpy(panel + (at / 4 + four) * 64, &bytes, 64);
    }
  }
}

struct Steps {
  F32x16 scale, minimum;        // rounded to f16
  U32x16 scale_bits, minimum_bits;
  U32x16 nibbles[kGroup / 8];   // of values 4 i to 4 i + 3 the low and of those 16 further on the high ones
};

// A group of n values by rounded steps; the sums of the steps, of their squares and of their products with values.
template <bool kWhole>
INLINE F32x16 attempt(const F32x16* v, int64_t some, Steps& s, F32x16& sum_q, F32x16& sum_qq, F32x16& sum_qv) {
  const int64_t n = kWhole ? kGroup : some;
  const F32x16 inverse = s.scale > F32x16{} ? 1.0f / s.scale : F32x16{};
  F32x16 error = {};
  sum_q = sum_qq = sum_qv = F32x16{};
  for (auto& four : s.nibbles) four = U32x16{};
#pragma GCC unroll 32
  for (int64_t i = 0; i < kGroup; ++i) {
    if (i >= n) break;
    // 2^23: the sum's low bits are the rounded number.
    const F32x16 rounded = clamp((v[i] - s.minimum) * inverse, 0.0f, 15.0f) + 8388608.0f;
    const U32x16 nibble = bits_of(rounded) & 15u;
    s.nibbles[i / 4 % 4] |= nibble << static_cast<uint32_t>(8 * (i % 4) + (i < 16 ? 0 : 4));
    const F32x16 q = __builtin_convertvector(reinterpret_cast<I32x16>(nibble), F32x16);
    const F32x16 off = s.scale * q + s.minimum - v[i];
    error += off * off;
    sum_q += q;
    sum_qq += q * q;
    sum_qv += q * v[i];
  }
  return error;
}

template <bool kWhole>
INLINE void pack_group(const F32x16* v, int64_t some, uint8_t* to) {
  const int64_t n = kWhole ? kGroup : some;
  const float count = static_cast<float>(n);
  F32x16 low = all(INFINITY), high = all(-INFINITY), sum_v = {};
  for (int64_t i = 0; i < n; ++i) {
    low = least(v[i], low);
    high = most(v[i], high);
    sum_v += v[i];
  }
  F32x16 scale = (high - low) / 15.0f, minimum = low, error = all(INFINITY);
  I32x16 going = ~I32x16{};
  Steps best = {};
  for (int tries = 0; tries < kAttempts; ++tries) {
    Steps steps;
    F32x16 sum_q, sum_qq, sum_qv;
    steps.scale_bits = to_half(clamp(scale, -kLargestHalf, kLargestHalf), steps.scale);
    steps.minimum_bits = to_half(clamp(minimum, -kLargestHalf, kLargestHalf), steps.minimum);
    const F32x16 off = attempt<kWhole>(v, n, steps, sum_q, sum_qq, sum_qv);
    const I32x16 better = (off < error) & going;
    error = better ? off : error;
    best.scale_bits = better ? steps.scale_bits : best.scale_bits;
    best.minimum_bits = better ? steps.minimum_bits : best.minimum_bits;
    for (int i = 0; i < 4; ++i) best.nibbles[i] = better ? steps.nibbles[i] : best.nibbles[i];
    // The line nearest to the values at these steps; none if all steps are the same.
    const F32x16 spread = count * sum_qq - sum_q * sum_q;
    going &= spread > F32x16{};
    scale = (count * sum_qv - sum_q * sum_v) / spread;
    minimum = (sum_v - scale * sum_q) / count;
  }
  std::memcpy(to, best.nibbles, kNibbleBytes);
  const U16x16 scales = __builtin_convertvector(best.scale_bits, U16x16), minima = __builtin_convertvector(best.minimum_bits, U16x16);
  std::memcpy(to + kNibbleBytes, &scales, kScaleBytes);
  std::memcpy(to + kNibbleBytes + kScaleBytes, &minima, kScaleBytes);
}

INLINE void pack_int4_any(const float* x, int64_t width, uint8_t* panel) {
  for (int64_t at = 0; at < width; at += kGroup, panel += group_bytes(true)) {
    F32x16 v[kGroup];
    columns16(x, width, at, v);
    if (at + 16 < width) columns16(x, width, at + 16, v + 16);
    if (at + kGroup <= width)
      pack_group<true>(v, kGroup, panel);
    else
      pack_group<false>(v, width - at, panel);
  }
}

EVERY_CPU(pack_int8, (const float* x, int64_t width, uint8_t* panel, float* scales), (x, width, panel, scales))
EVERY_CPU(pack_int4, (const float* x, int64_t width, uint8_t* panel), (x, width, panel))

}  // namespace

extern "C" {

// x [16, width] to a panel of format kInt8 or kInt4Min, all of whose other bytes are zero; int8 gives 16 scales.
void ll_pack_panel(const float* x, int64_t width, int format, uint8_t* panel, float* scales) {
  if (format == kInt8)
    pack_int8()(x, width, panel, scales);
  else
    pack_int4()(x, width, panel);
}

}  // extern "C"
