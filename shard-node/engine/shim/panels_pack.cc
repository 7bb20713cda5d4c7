// Rounds 16 rows of a matrix to a panel. Each row has a lane of its own, so sums go value by value in one order and
// the bytes are the same with any vectors. See panels.h for the layouts; 4 bits are as in src/quantise/int4.rs.
//
// Vectors are as wide as the CPU's own, and the panel's rows are taken so many at a time: GCC takes shuffles, choices
// and comparisons of wider ones apart value by value.
//
// Compiled with -ffp-contract=off, as rows.cc is and for the same reason.
#include "panels.h"

#include <cmath>
#include <utility>

namespace {

constexpr float kLargestHalf = 65504.0f;
// Attempts at a group, the first from its range.
constexpr int kAttempts = 3;

// Types of their own: builtins don't take vectors whose size is a template's argument.
template <int kLanes>
struct Vectors;
#define VECTORS(LANES)                                             \
  template <>                                                      \
  struct Vectors<LANES> {                                          \
    typedef float F __attribute__((vector_size(4 * LANES)));       \
    typedef uint32_t U __attribute__((vector_size(4 * LANES)));    \
    typedef int32_t I __attribute__((vector_size(4 * LANES)));     \
    typedef uint16_t Half __attribute__((vector_size(2 * LANES))); \
  };
VECTORS(4)
VECTORS(8)
VECTORS(16)
#undef VECTORS

// kLanes rows side by side.
template <int kLanes>
struct Lanes {
  using F = typename Vectors<kLanes>::F;
  using U = typename Vectors<kLanes>::U;
  using I = typename Vectors<kLanes>::I;
  using Half = typename Vectors<kLanes>::Half;

  static INLINE F all(float f) { return f - F{}; }
  static INLINE U bits_of(F v) { return reinterpret_cast<U>(v); }
  static INLINE F of_bits(U v) { return reinterpret_cast<F>(v); }
  static INLINE F least(F a, F b) { return a < b ? a : b; }
  static INLINE F most(F a, F b) { return a > b ? a : b; }
  // Of a NaN, a NaN.
  static INLINE F clamp(F v, float low, float high) {
    v = v < all(low) ? all(low) : v;
    return v > all(high) ? all(high) : v;
  }
  static INLINE F load(const float* p) {
    F v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }

  // f16 in the low half of each lane, to nearest even, of what is no larger than an f16 may be; and its value.
  // Numbers below 2^-14 are aligned by a sum with 1/2, whose last bit is 2^-24. A NaN stays one in `value` only.
  static INLINE U to_half(F v, F& value) {
    const U bits = bits_of(v), sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
    const U large = (size + 0xfffu + ((size >> 13) & 1u)) & ~0x1fffu;
    const U small = bits_of(of_bits(size) + 0.5f) - 0x3f000000u;
    const I is_small = reinterpret_cast<I>(size) < static_cast<int32_t>(113u << 23) - I{};
    const F small_value = __builtin_convertvector(reinterpret_cast<I>(small), F) * 0x1p-24f;
    const F rounded = of_bits((is_small ? bits_of(small_value) : large) | sign);
    value = v == v ? rounded : v;
    return (is_small ? small : (large >> 13) - (112u << 10)) | sign >> 16;
  }

  // Of vectors kBy apart, exchanges the lanes kBy apart.
  template <int kBy, size_t... kLane>
  static INLINE void exchange(F* v, std::index_sequence<kLane...>) {
    constexpr U kLow = {((kLane & kBy) != 0 ? kLanes + kLane - kBy : kLane)...};
    constexpr U kHigh = {((kLane & kBy) != 0 ? kLanes + kLane : kLane + kBy)...};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if ((i & kBy) == 0) {
        const F a = v[i], b = v[i + kBy];
        v[i] = __builtin_shuffle(a, b, kLow);
        v[i + kBy] = __builtin_shuffle(a, b, kHigh);
      }
  }

  // As many rows as columns to columns by rows.
  static INLINE void transpose(F* v) {
    constexpr auto kEach = std::make_index_sequence<kLanes>();
    exchange<1>(v, kEach);
    exchange<2>(v, kEach);
    if constexpr (kLanes > 4) exchange<4>(v, kEach);
    if constexpr (kLanes > 8) exchange<8>(v, kEach);
  }

  // kCount columns from `at` on, a row in each lane; beyond the width zeros.
  template <int kCount>
  static INLINE void columns(const float* x, int64_t width, int64_t at, F* v) {
#pragma GCC unroll 8
    for (int from = 0; from < kCount; from += kLanes) {
      const int64_t left = width - at - from;
      for (int row = 0; row < kLanes; ++row) {
        const float* values = x + row * width + at + from;
        if (left >= kLanes) {
          v[from + row] = load(values);
        } else {
          v[from + row] = F{};
          for (int64_t i = 0; i < left; ++i) v[from + row][i] = values[i];
        }
      }
      transpose(v + from);
    }
  }

  static INLINE float largest_of(const float* values, int64_t width) {
    F size = {};
    int64_t at = 0;
    for (; at + kLanes <= width; at += kLanes) size = most(size, of_bits(bits_of(load(values + at)) & 0x7fffffffu));
    float one = 0.0f;
    for (int i = 0; i < kLanes; ++i) one = size[i] > one ? size[i] : one;
    for (; at < width; ++at) one = std::fabs(values[at]) > one ? std::fabs(values[at]) : one;
    return one;
  }

  // kLanes rows of a panel; `panel` is the first one's place in it.
  static INLINE void int8_rows(const float* x, int64_t width, uint8_t* panel, float* scales) {
    F largest = {};
    for (int row = 0; row < kLanes; ++row) largest[row] = largest_of(x + row * width, width);
    const F scale = largest / 127.0f;
    const I is_some = scale > all(1.17549435e-38f);
    const F inverse = is_some ? 1.0f / scale : F{}, kept = is_some ? scale : F{};
    std::memcpy(scales, &kept, sizeof(kept));
    for (int64_t at = 0; at < width; at += kPanelRows) {
      F v[kPanelRows];
      columns<kPanelRows>(x, width, at, v);
#pragma GCC unroll 4
      for (int four = 0; four < 4; ++four) {
        if (at + 4 * four >= width) break;
        U bytes = {};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          if (at + 4 * four + i >= width) break;
          // 1.5 * 2^23: the sum is rounded to an integer, to nearest even, which its low bits then are.
          const U rounded = bits_of(clamp(v[4 * four + i] * inverse, -127.0f, 127.0f) + 12582912.0f);
          bytes |= ((rounded + 128u) & 255u) << static_cast<uint32_t>(8 * i);
        }
        std::memcpy(panel + (at / 4 + four) * 64, &bytes, sizeof(bytes));
      }
    }
  }

  struct Steps {
    F scale, minimum;         // rounded to f16
    U scale_bits, minimum_bits;
    U nibbles[kGroup / 8];    // of values 4 i to 4 i + 3 the low and of those 16 further on the high ones
  };

  // A group of n values by rounded steps; the sums of the steps, of their squares and of their products with values.
  template <bool kWhole>
  static INLINE F attempt(const F* v, int64_t some, Steps& s, F& sum_q, F& sum_qq, F& sum_qv) {
    const int64_t n = kWhole ? kGroup : some;
    const F inverse = s.scale > F{} ? 1.0f / s.scale : F{};
    F error = {};
    sum_q = sum_qq = sum_qv = F{};
    for (auto& four : s.nibbles) four = U{};
#pragma GCC unroll 32
    for (int64_t i = 0; i < kGroup; ++i) {
      if (i >= n) break;
      // 2^23: the sum's low bits are the rounded number.
      const F rounded = clamp((v[i] - s.minimum) * inverse, 0.0f, 15.0f) + 8388608.0f;
      const U nibble = bits_of(rounded) & 15u;
      s.nibbles[i / 4 % 4] |= nibble << static_cast<uint32_t>(8 * (i % 4) + (i < 16 ? 0 : 4));
      const F q = __builtin_convertvector(reinterpret_cast<I>(nibble), F);
      const F off = s.scale * q + s.minimum - v[i];
      error += off * off;
      sum_q += q;
      sum_qq += q * q;
      sum_qv += q * v[i];
    }
    return error;
  }

  template <bool kWhole>
  static INLINE void pack_group(const F* v, int64_t some, uint8_t* nibbles, uint8_t* scales) {
    const int64_t n = kWhole ? kGroup : some;
    const float count = static_cast<float>(n);
    F low = all(INFINITY), high = all(-INFINITY), sum_v = {};
    for (int64_t i = 0; i < n; ++i) {
      low = least(v[i], low);
      high = most(v[i], high);
      sum_v += v[i];
    }
    F scale = (high - low) / 15.0f, minimum = low, error = all(INFINITY);
    I going = ~I{};
    Steps best = {};
    for (int tries = 0; tries < kAttempts; ++tries) {
      Steps steps;
      F sum_q, sum_qq, sum_qv;
      steps.scale_bits = to_half(clamp(scale, -kLargestHalf, kLargestHalf), steps.scale);
      steps.minimum_bits = to_half(clamp(minimum, -kLargestHalf, kLargestHalf), steps.minimum);
      const F off = attempt<kWhole>(v, n, steps, sum_q, sum_qq, sum_qv);
      const I better = (off < error) & going;
      error = better ? off : error;
      best.scale_bits = better ? steps.scale_bits : best.scale_bits;
      best.minimum_bits = better ? steps.minimum_bits : best.minimum_bits;
      for (int i = 0; i < 4; ++i) best.nibbles[i] = better ? steps.nibbles[i] : best.nibbles[i];
      // The line nearest to the values at these steps; none if all steps are the same.
      const F spread = count * sum_qq - sum_q * sum_q;
      going &= spread > F{};
      scale = (count * sum_qv - sum_q * sum_v) / spread;
      minimum = (sum_v - scale * sum_q) / count;
    }
    for (int i = 0; i < 4; ++i) std::memcpy(nibbles + i * 64, &best.nibbles[i], sizeof(U));
    const Half halves = __builtin_convertvector(best.scale_bits, Half);
    const Half minima = __builtin_convertvector(best.minimum_bits, Half);
    std::memcpy(scales, &halves, sizeof(halves));
    std::memcpy(scales + kScaleBytes, &minima, sizeof(minima));
  }

  static INLINE void int4_rows(const float* x, int64_t width, uint8_t* nibbles, uint8_t* scales) {
    for (int64_t at = 0; at < width; at += kGroup, nibbles += group_bytes(true), scales += group_bytes(true)) {
      F v[kGroup];
      columns<kGroup>(x, width, at, v);
      if (at + kGroup <= width)
        pack_group<true>(v, kGroup, nibbles, scales);
      else
        pack_group<false>(v, width - at, nibbles, scales);
    }
  }

  static INLINE void panel(const float* x, int64_t width, int format, uint8_t* panel, float* scales) {
    for (int64_t row = 0; row < kPanelRows; row += kLanes)
      if (format == kInt8)
        int8_rows(x + row * width, width, panel + 4 * row, scales + row);
      else
        int4_rows(x + row * width, width, panel + 4 * row, panel + kNibbleBytes + 2 * row);
  }
};

__attribute__((target("arch=x86-64-v4"))) void pack_v4(const float* x, int64_t width, int format, uint8_t* panel,
                                                       float* scales) {
  Lanes<16>::panel(x, width, format, panel, scales);
}

__attribute__((target("arch=x86-64-v3"))) void pack_v3(const float* x, int64_t width, int format, uint8_t* panel,
                                                       float* scales) {
  Lanes<8>::panel(x, width, format, panel, scales);
}

void pack_plain(const float* x, int64_t width, int format, uint8_t* panel, float* scales) {
  Lanes<4>::panel(x, width, format, panel, scales);
}

}  // namespace

extern "C" {

// x [16, width] to a panel of format kInt8 or kInt4Min, all of whose other bytes are zero; int8 gives 16 scales.
void ll_pack_panel(const float* x, int64_t width, int format, uint8_t* panel, float* scales) {
  const int level = ll_cpu_level();
  (level >= kLevel4 ? pack_v4 : level >= kLevel3 ? pack_v3 : pack_plain)(x, width, format, panel, scales);
}

}  // extern "C"
