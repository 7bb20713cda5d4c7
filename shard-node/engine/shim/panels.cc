// Products with quantised panels: rounds the rows of x to int8, deals the panels out to threads, and has the
// kernels of CPUs without AVX2. See panels.h for the layout.
//
// Compiled with -ffp-contract=off, as rows.cc is and for the same reason.
#include "panels.h"

#include <cmath>
#include <vector>

#include "amx.h"
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
  int64_t pieces = 0, stride = 0;
  int64_t block = 0;  // as in Product

  // Room for so many rows of so many groups.
  void resize(int64_t rows, int64_t groups, int64_t rows_of_block) {
    pieces = groups;
    block = rows_of_block;
    stride = x_stride(pieces * kGroup);
    if (block != 0) rows = (rows + block - 1) / block * block;
    const size_t all = rows * pieces, bytes = block != 0 ? all * kGroup : rows * stride;
    if (x.size() < bytes) x.resize(bytes);
    if (scale.size() < all) {
      scale.resize(all);
      total.resize(all);
      sum.resize(all);
    }
  }

  // Where a row's first group is, and how far it is from one to the next.
  int64_t first(int64_t row) const { return block != 0 ? row / block * block * pieces + row % block : row * pieces; }
  int64_t step() const { return block != 0 ? block : 1; }
  int8_t* bytes(int64_t row) { return x.data() + (block != 0 ? first(row) * kGroup : row * stride); }
};

struct Rows {
  const void* x;
  int bf16;
  int64_t rows;
  int64_t width;  // as given, without padding
  int terms;      // 2: what rounding left over becomes a row as well
};

template <class T>
INLINE void round_row(const T* x, int64_t width, int64_t row, RoundedRows& to) {
  const int64_t step = to.step();
  int8_t* q = to.bytes(row);
  float *scale = &to.scale[to.first(row)], *total = &to.total[to.first(row)];
  int32_t* sum = &to.sum[to.first(row)];
  for (int64_t at = 0; at < width; at += kGroup) {
    if (at + kGroup <= width) {
      round_to_int8(x + at, kGroup, q, scale, sum);  // a known length is unrolled
    } else {
      round_to_int8(x + at, width - at, q, scale, sum);
      for (int64_t i = width - at; i < kGroup; ++i) q[i] = 0;
    }
    *total = *scale * static_cast<float>(*sum);
    q += step * kGroup;
    scale += step;
    total += step;
    sum += step;
  }
}

// Rounds what the rounding of a row left over: row `row + rows` of `to`.
template <class T>
INLINE void round_rest(const T* x, int64_t width, int64_t row, int64_t rows, RoundedRows& to) {
  thread_local std::vector<float> rest;
  if (static_cast<int64_t>(rest.size()) < width) rest.resize(width);
  float* left = rest.data();
  const int8_t* q = to.bytes(row);
  const float* scale = &to.scale[to.first(row)];
  for (int64_t at = 0; at < width; at += kGroup, q += to.step() * kGroup, scale += to.step()) {
    const int64_t n = width - at < kGroup ? width - at : kGroup;
    for (int64_t i = 0; i < n; ++i) left[at + i] = load(x + at + i) - *scale * static_cast<float>(q[i]);
  }
  round_row(static_cast<const float*>(left), width, row + rows, to);
}

template <class T>
INLINE void round_terms(const void* values, const Rows& from, int64_t row, RoundedRows& to) {
  const T* x = static_cast<const T*>(values) + row * from.width;
  round_row(x, from.width, row, to);
  if (from.terms == 2) round_rest(x, from.width, row, from.rows, to);
}

INLINE void round_each_any(const Rows& from, int64_t row, RoundedRows& to) {
  if (from.bf16)
    round_terms<Bf16>(from.x, from, row, to);
  else
    round_terms<float>(from.x, from, row, to);
}

EVERY_CPU(round_each, (const Rows& from, int64_t row, RoundedRows& to), (from, row, to))

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

constexpr int kTiles = 3;

PanelKernel* const kKernels[4][3] = {
    {int8_plain, int4_plain, int4_min_plain},
    {int8_avx2, int4_avx2, int4_min_avx2},
    {int8_avx512, int4_avx512, int4_min_avx512},
    {int8_amx, int4_amx, int4_min_amx},
};

// From so many rows on tiles win.
constexpr int64_t kWorthTiles = 8;

// Rows of a block for tiles. Twelve share most loads, and eight may leave less of the last block empty.
int64_t rows_of_block(int64_t rows) {
  const auto filled = [rows](int64_t block) { return (rows + block - 1) / block * block; };
  return rows <= 4 ? 4 : 8 * filled(12) <= 9 * filled(8) ? 12 : 8;
}

// Of many rows, so many at a time, whole blocks: they stay in the second-level cache while panels pass by.
int64_t rows_at_once(int64_t rows, int64_t padded, int64_t block) {
  if (block == 0) return 64;
  const int64_t in_cache = (5 << 18) / padded, least = in_cache < 64 ? 64 : in_cache;
  const int64_t most = least > kTileRowsAtOnce - block ? kTileRowsAtOnce - block : least;
  const int64_t times = (rows + most - 1) / most, some = (rows + times - 1) / times;
  return (some + block - 1) / block * block;
}

// What one thread takes at a time: some microseconds, so that no thread waits long for another; of a product of
// many rows no more than stays in the cache as well. An even number: tiles take two panels at once.
int64_t panels_at_once(int64_t panels, int64_t rows, int64_t panel_bytes) {
  const int64_t share = (rows > 64 ? 256 << 10 : 64 << 10) / panel_bytes;
  return share < 2 ? 2 : (share > panels ? panels : share / 2 * 2);
}

// The part of a product that is `rows` rows from `first` on, which begins a block.
Product some_rows(Product p, int64_t first, int64_t rows) {
  const int64_t at = first * p.out * (p.bf16 ? 2 : 4), group = first * (p.width / kGroup);
  p.x += p.block != 0 ? group * kGroup : first * p.stride;
  p.x_scale += group;
  p.x_total += group;
  p.x_sum += group;
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
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma")) {
    static const bool tiles = amx_was_compiled() && amx_usable();
    return tiles ? kTiles : kTiles - 1;
  }
  // Every CPU with AVX2 and FMA has the f16 conversions.
  return level >= kLevel3 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

// y [rows * terms, out]; the results of rests follow the others.
void ll_panels(const PanelCall* call) {
  const PanelCall& c = *call;
  // Kept between calls: a decode step makes a hundred of them.
  thread_local RoundedRows rounded;
  RoundedRows& to = rounded;
  const int64_t rows = c.rows * c.terms;
  const int level = c.level == kTiles && rows < kWorthTiles ? kTiles - 1 : c.level;
  to.resize(rows, c.padded / kGroup, level == kTiles ? rows_of_block(rows) : 0);
  const Rows from = {c.x, c.x_bf16, c.rows, c.width, c.terms};
  const Product p = {c.panels,
                     c.panel_bytes,
                     c.scales,
                     c.out,
                     to.x.data(),
                     rows,
                     to.stride,
                     c.padded,
                     to.scale.data(),
                     to.total.data(),
                     to.sum.data(),
                     to.block,
                     c.residual,
                     c.y,
                     c.y_bf16};
  const int64_t panels = (c.out + kPanelRows - 1) / kPanelRows, share = panels_at_once(panels, rows, c.panel_bytes);
  const int64_t shares = (panels + share - 1) / share, most_rows = rows_at_once(rows, c.padded, to.block);
  PanelKernel* const kernel = kKernels[level][c.format];
  auto* const round_one = round_each();
  const auto round = [&](int64_t row) { round_one(from, row, to); };
  const auto multiply = [&](int64_t s) {
    for (int64_t row = 0; row < rows; row += most_rows) {
      const int64_t some = rows - row < most_rows ? rows - row : most_rows;
      kernel(some_rows(p, row, some), s * share, s + 1 == shares ? panels : (s + 1) * share);
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
