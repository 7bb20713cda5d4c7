// Products with quantised panels: rounds the rows of x to int8, deals the panels out to threads, and has the
// kernels of CPUs without AVX2. See panels.h for the layout.
//
// Compiled with -ffp-contract=off, as rows.cc is and for the same reason.
#include "panels.h"

#include <cmath>
#include <vector>

#include "team.h"

namespace {

// GCC does not know the sum of a float and 1.5 * 2^23 as a rounding to nearest, but its vectors do it.
constexpr float kMagic = 12582912.0f;

INLINE uint32_t bits_of(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

// `n` values to int8 of at most 127 in size. A value that is not finite makes the scale NaN, and so the results.
template <class T>
INLINE void round_to_int8(const T* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t size = bits_of(load(x + i)) & 0x7fffffffu;
    most = size > most ? size : most;
  }
  float largest;
  std::memcpy(&largest, &most, 4);
  const bool finite = most < 0x7f800000u, tiny = largest < 1e-30f;
  const float inverse = finite && !tiny ? 127.0f / largest : 0.0f;
  *scale = finite ? (tiny ? 0.0f : largest / 127.0f) : NAN;
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t rounded = static_cast<int32_t>(bits_of(load(x + i) * inverse + kMagic) - bits_of(kMagic));
    q[i] = static_cast<int8_t>(rounded);
    total += static_cast<int8_t>(rounded);
  }
  *sum = total;
}

struct RoundedRows {
  std::vector<int8_t> x;
  std::vector<float> scale, total;
  std::vector<int32_t> sum;
};

struct Rows {
  const void* x;
  int bf16;
  int64_t rows;
  int64_t width;  // as given, without padding
  int terms;      // 2: what rounding left over becomes a row as well
};

template <class T>
INLINE void round_row(const T* x, int64_t width, int64_t padded, int64_t row, RoundedRows& to) {
  int8_t* q = to.x.data() + row * x_stride(padded);
  const int64_t pieces = padded / kGroup;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t at = piece * kGroup, left = width - at, n = left < kGroup ? (left < 0 ? 0 : left) : kGroup;
    float* scale = &to.scale[row * pieces + piece];
    int32_t* sum = &to.sum[row * pieces + piece];
    if (n == kGroup)
      round_to_int8(x + at, kGroup, q + at, scale, sum);  // a known length is unrolled
    else
      round_to_int8(x + at, n, q + at, scale, sum);
    to.total[row * pieces + piece] = *scale * static_cast<float>(*sum);
  }
  for (int64_t i = width; i < padded; ++i) q[i] = 0;
}

// Rounds what the rounding of a row left over: row `row + rows` of `to`.
template <class T>
INLINE void round_rest(const T* x, int64_t width, int64_t padded, int64_t row, int64_t rows,
                       RoundedRows& to) {
  thread_local std::vector<float> rest;
  if (static_cast<int64_t>(rest.size()) < width) rest.resize(width);
  float* left = rest.data();
  const int64_t pieces = padded / kGroup;
  const int8_t* q = to.x.data() + row * x_stride(padded);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const float scale = to.scale[row * pieces + piece];
    const int64_t end = (piece + 1) * kGroup < width ? (piece + 1) * kGroup : width;
    for (int64_t i = piece * kGroup; i < end; ++i) left[i] = load(x + i) - scale * static_cast<float>(q[i]);
  }
  round_row(static_cast<const float*>(left), width, padded, row + rows, to);
}

template <class T>
INLINE void round_terms(const void* values, const Rows& from, int64_t padded, int64_t row,
                        RoundedRows& to) {
  const T* x = static_cast<const T*>(values) + row * from.width;
  round_row(x, from.width, padded, row, to);
  if (from.terms == 2) round_rest(x, from.width, padded, row, from.rows, to);
}

INLINE void round_each_any(const Rows& from, int64_t padded, int64_t row, RoundedRows& to) {
  if (from.bf16)
    round_terms<Bf16>(from.x, from, padded, row, to);
  else
    round_terms<float>(from.x, from, padded, row, to);
}

EVERY_CPU(round_each, (const Rows& from, int64_t padded, int64_t row, RoundedRows& to), (from, padded, row, to))

float half_to_float(const uint8_t* h) {
  uint16_t bits;
  std::memcpy(&bits, h, 2);
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const float size = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
                     : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                      : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return bits >> 15 ? -size : size;
}

void int4_any(const Product& p, int64_t first, int64_t last, bool has_min) {
  const int64_t groups = p.width / kGroup;
  for (int64_t panel = first; panel < last; ++panel) {
    const uint8_t* w = p.panels + panel * p.panel_bytes;
    for (int64_t row = 0; row < p.rows; ++row) {
      F32x16 sum = {};
      for (int64_t g = 0; g < groups; ++g) {
        const int8_t* x = p.x + row * p.stride + g * kGroup;
        const uint8_t* group = w + g * group_bytes(has_min);
        const uint8_t* scales = group + kNibbleBytes;
        for (int64_t o = 0; o < kPanelRows; ++o) {
          int32_t dot = 0;
          for (int64_t i = 0; i < 16; ++i) {
            const uint8_t byte = group[i / 4 * 64 + o * 4 + i % 4];
            dot += (byte & 15) * x[i] + (byte >> 4) * x[16 + i];
          }
          const float scale = half_to_float(scales + 2 * o);
          const float least = has_min ? half_to_float(scales + kScaleBytes + 2 * o) : -8.0f * scale;
          sum[o] += scale * p.x_scale[row * groups + g] * static_cast<float>(dot);
          sum[o] += least * p.x_total[row * groups + g];
        }
      }
      finish16(p, row, panel, sum);
    }
  }
}

PanelKernel* const kKernels[3][3] = {
    {int8_plain, int4_plain, int4_min_plain},
    {int8_avx2, int4_avx2, int4_min_avx2},
    {int8_avx512, int4_avx512, int4_min_avx512},
};

// Of many rows, so many at a time: they stay in the second-level cache while panels pass by.
constexpr int64_t kRowsAtOnce = 64;

// What one thread takes at a time: some microseconds, so that no thread waits long for another; of a product of
// many rows no more than stays in the cache as well.
int64_t panels_at_once(int64_t panels, int64_t rows, int64_t panel_bytes) {
  const int64_t share = (rows > kRowsAtOnce ? 256 << 10 : 64 << 10) / panel_bytes;
  return share < 1 ? 1 : (share > panels ? panels : share);
}

// The part of a product that is `rows` rows from `first` on.
Product some_rows(Product p, int64_t first, int64_t rows, int64_t pieces) {
  const int64_t at = first * p.out * (p.bf16 ? 2 : 4);
  p.x += first * p.stride;
  p.x_scale += first * pieces;
  p.x_total += first * pieces;
  p.x_sum += first * pieces;
  if (p.residual != nullptr) p.residual = static_cast<const char*>(p.residual) + at;
  p.y = static_cast<char*>(p.y) + at;
  p.rows = rows;
  return p;
}

}  // namespace

void int8_plain(const Product& p, int64_t first, int64_t last) {
  const int64_t groups = p.width / kGroup;
  for (int64_t panel = first; panel < last; ++panel) {
    const uint8_t* w = p.panels + panel * p.panel_bytes;
    for (int64_t row = 0; row < p.rows; ++row) {
      const int8_t* x = p.x + row * p.stride;
      F32x16 sums = {};
      for (int64_t g = 0; g < groups; ++g) {
        int32_t sum[kPanelRows] = {};
        for (int64_t k = g * kGroup; k < (g + 1) * kGroup; ++k)
          for (int64_t o = 0; o < kPanelRows; ++o) sum[o] += (w[k / 4 * 64 + o * 4 + k % 4] - 128) * x[k];
        for (int64_t o = 0; o < kPanelRows; ++o) sums[o] += static_cast<float>(sum[o]) * p.x_scale[row * groups + g];
      }
      finish_int8(p, row, panel, sums);
    }
  }
}

void int4_plain(const Product& p, int64_t first, int64_t last) { int4_any(p, first, last, false); }

void int4_min_plain(const Product& p, int64_t first, int64_t last) { int4_any(p, first, last, true); }

extern "C" {

// As in src/ffi/panels.rs.
struct PanelCall {
  const void* x;
  int64_t rows;
  int64_t width;
  int64_t padded;
  const uint8_t* panels;
  int64_t panel_bytes;
  const float* scales;
  int64_t out;
  const void* residual;
  void* y;
  int x_bf16;
  int y_bf16;
  int format;
  int level;
  int together;
  int terms;
};

// The best row of kKernels on this CPU.
int ll_panel_level() {
  __builtin_cpu_init();
  const int level = ll_cpu_level();
  if (level >= kLevel4 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
    return 2;
  // Every CPU with AVX2 and FMA has the f16 conversions.
  return level >= kLevel3 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

// y [rows * terms, out]; the results of rests follow the others.
void ll_panels(const PanelCall* call) {
  const PanelCall& c = *call;
  const int64_t pieces = c.padded / kGroup;
  // Kept between calls: a decode step makes a hundred of them.
  thread_local RoundedRows rounded;
  RoundedRows& to = rounded;
  const int64_t rows = c.rows * c.terms;
  if (static_cast<int64_t>(to.x.size()) < rows * x_stride(c.padded)) to.x.resize(rows * x_stride(c.padded));
  if (static_cast<int64_t>(to.scale.size()) < rows * pieces) {
    to.scale.resize(rows * pieces);
    to.total.resize(rows * pieces);
    to.sum.resize(rows * pieces);
  }
  const Rows from = {c.x, c.x_bf16, c.rows, c.width, c.terms};
  const Product p = {c.panels,
                     c.panel_bytes,
                     c.scales,
                     c.out,
                     to.x.data(),
                     rows,
                     x_stride(c.padded),
                     c.padded,
                     to.scale.data(),
                     to.total.data(),
                     to.sum.data(),
                     c.residual,
                     c.y,
                     c.y_bf16};
  const int64_t panels = (c.out + kPanelRows - 1) / kPanelRows, share = panels_at_once(panels, rows, c.panel_bytes);
  const int64_t shares = (panels + share - 1) / share;
  PanelKernel* const kernel = kKernels[c.level][c.format];
  auto* const round_one = round_each();
  const auto round = [&](int64_t row) { round_one(from, c.padded, row, to); };
  const auto multiply = [&](int64_t s) {
    for (int64_t row = 0; row < rows; row += kRowsAtOnce) {
      const int64_t some = rows - row < kRowsAtOnce ? rows - row : kRowsAtOnce;
      kernel(some_rows(p, row, some, pieces), s * share, s + 1 == shares ? panels : (s + 1) * share);
    }
  };
  if (c.together && c.rows > 4)
    in_team(c.rows, round);
  else
    for (int64_t row = 0; row < c.rows; ++row) round(row);
  if (c.together) return in_team(shares, multiply);
  for (int64_t s = 0; s < shares; ++s) multiply(s);
}

}  // extern "C"
