// Panels with AMX, for products of many rows: the four bytes of each of 16 rows that a panel begins with are a
// row of a tile already. A group of 32 values has a scale of its own, so a tile product is 32 deep, and its int32
// go through the first-level cache to where vectors multiply them by their scales, in the order and with the
// operations of panels_avx512.cc: the same bits.
//
// Everything but the tile product competes for the loads of one core (two a cycle, 64 bytes each): two panels
// share the tile of x and the scales of its rows, whose sums just fit into the registers. Weights are made signed
// bytes some groups at a time and serve all rows of the call; sums wait in memory meanwhile.
//
// Compiled for such a CPU as a whole, like panels_avx512.cc; by a compiler that does not know AMX to nothing.
#include "panels.h"

#ifdef __AMX_INT8__
#include <immintrin.h>

namespace {

constexpr int64_t kChunk = 16;  // groups
constexpr int64_t kMostRows = kTileRowsAtOnce;
constexpr int64_t kMostInBlock = 12;
constexpr int64_t kGroupValues = kPanelRows * kGroup;

struct alignas(64) Scratch {
  int8_t weights[2][kChunk * kGroupValues];
  float scale[2][kChunk * kPanelRows], least[2][kChunk * kPanelRows];  // int4
  int32_t dots[2][2][kMostInBlock * kPanelRows];                        // of two groups, of two panels
  float sums[2 * kMostRows * kPanelRows];
};

struct Int8 {
  static constexpr int64_t kGroupBytes = kGroupValues;
  static constexpr bool kScaled = false, kMin = false;
};

template <bool kHasMin>
struct Int4 {
  static constexpr int64_t kGroupBytes = group_bytes(kHasMin);
  static constexpr bool kScaled = true, kMin = kHasMin;
};

// Some groups of a panel to signed bytes, eight rows of a tile for each, and to f32 scales.
template <class F>
INLINE void widen(const uint8_t* from, int64_t groups, int8_t* to, float* scale, float* least) {
  for (int64_t g = 0; g < groups; ++g, from += F::kGroupBytes, to += kGroupValues) {
    if constexpr (F::kScaled) {
      const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512i bytes = _mm512_loadu_si512(from + 64 * j);
        _mm512_store_si512(to + 64 * j, _mm512_and_si512(bytes, low));
        _mm512_store_si512(to + 256 + 64 * j, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low));
      }
      const auto half = [](const uint8_t* h) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
      };
      const __m512 s = half(from + kNibbleBytes);
      _mm512_store_ps(scale + g * kPanelRows, s);
      _mm512_store_ps(least + g * kPanelRows, F::kMin ? half(from + kNibbleBytes + kScaleBytes)
                                                      : _mm512_mul_ps(s, _mm512_set1_ps(-8.0f)));
    } else {
      const __m512i offset = _mm512_set1_epi8(-128);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j)
        _mm512_store_si512(to + 64 * j, _mm512_xor_si512(_mm512_loadu_si512(from + 64 * j), offset));
    }
  }
}

// What a block of rows multiplies next: the widened groups of kPanels panels.
struct Work {
  const int8_t* x;  // of the block
  const float* x_scale;
  const float* x_total;
  int64_t groups;
  const uint8_t* ahead[2];  // bytes of panels that are wanted next, or null
};

#define TILE_PRODUCTS(FIRST, SECOND, A, G)                       \
  do {                                                           \
    _tile_zero(FIRST);                                           \
    _tile_loadd(A, work.x + (G) * kRows * kGroup, kGroup);       \
    _tile_loadd(6, s.weights[0] + (G) * kGroupValues, 64);       \
    _tile_dpbssd(FIRST, A, 6);                                   \
    if (kPanels == 2) {                                          \
      _tile_zero(SECOND);                                        \
      _tile_loadd(7, s.weights[1] + (G) * kGroupValues, 64);     \
      _tile_dpbssd(SECOND, A, 7);                                \
    }                                                            \
  } while (0)

#define TILE_STORES(FIRST, SECOND, TO)                           \
  do {                                                           \
    _tile_stored(FIRST, s.dots[TO][0], 64);                      \
    if (kPanels == 2) _tile_stored(SECOND, s.dots[TO][1], 64);   \
  } while (0)

// A group's sums of kRows rows and kPanels panels, times its scales, onto `sum`.
template <class F, int kRows, int kPanels>
INLINE void add_group(const Scratch& s, const Work& work, int64_t g, __m512 (&sum)[kPanels][kRows]) {
  __m512 scale[kPanels], least[kPanels];
  if constexpr (F::kScaled)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      scale[p] = _mm512_load_ps(s.scale[p] + g * kPanelRows);
      least[p] = _mm512_load_ps(s.least[p] + g * kPanelRows);
    }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const __m512 x_scale = _mm512_set1_ps(work.x_scale[g * kRows + r]);
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(s.dots[g & 1][p] + r * kPanelRows));
      if constexpr (F::kScaled) {
        sum[p][r] = _mm512_fmadd_ps(_mm512_mul_ps(scale[p], x_scale), dot, sum[p][r]);
        sum[p][r] = _mm512_fmadd_ps(least[p], _mm512_set1_ps(work.x_total[g * kRows + r]), sum[p][r]);
      } else {
        sum[p][r] = _mm512_fmadd_ps(dot, x_scale, sum[p][r]);
      }
    }
  }
}

// Tiles of one group are computed while those before are stored and those before these are added.
template <class F, int kRows, int kPanels>
INLINE void add_groups(Scratch& s, const Work& work, __m512 (&sum)[kPanels][kRows]) {
  const int64_t groups = work.groups;
  TILE_PRODUCTS(0, 1, 4, 0);
  for (int64_t g = 1; g < groups; ++g) {
    if (g & 1) {
      TILE_PRODUCTS(2, 3, 5, g);
      TILE_STORES(0, 1, 0);
    } else {
      TILE_PRODUCTS(0, 1, 4, g);
      TILE_STORES(2, 3, 1);
    }
    if (work.ahead[0] != nullptr)
#pragma GCC unroll 16
      for (int64_t i = 0; i < kPanels * F::kGroupBytes / kPanels; i += 64)
        for (int p = 0; p < kPanels; ++p)
          _mm_prefetch(work.ahead[p] + (g - 1) * F::kGroupBytes + i, _MM_HINT_T1);
    if (g >= 2) add_group<F, kRows, kPanels>(s, work, g - 2, sum);
  }
  if (groups >= 2) add_group<F, kRows, kPanels>(s, work, groups - 2, sum);
  if (groups & 1)
    TILE_STORES(0, 1, 0);
  else
    TILE_STORES(2, 3, 1);
  add_group<F, kRows, kPanels>(s, work, groups - 1, sum);
}

// All rows times kPanels panels from `panel` on; `next` panel is read after them if it is not the last.
template <class F, int kRows, int kPanels>
INLINE void some_panels(const Product& p, int64_t panel, bool more, Scratch& s) {
  const int64_t groups = p.width / kGroup;
  for (int64_t from = 0; from < groups; from += kChunk) {
    const int64_t some = groups - from < kChunk ? groups - from : kChunk;
    const bool is_first = from == 0, is_last = from + some == groups;
    Work work = {};
    work.groups = some;
    for (int64_t i = 0; i < kPanels; ++i) {
      const uint8_t* bytes = p.panels + (panel + i) * p.panel_bytes;
      widen<F>(bytes + from * F::kGroupBytes, some, s.weights[i], s.scale[i], s.least[i]);
      work.ahead[i] = !is_last ? bytes + (from + some) * F::kGroupBytes : more ? bytes + kPanels * p.panel_bytes : nullptr;
    }
    // Tiles are loaded behind the compiler's back.
    asm volatile("" ::: "memory");
    for (int64_t row = 0; row < p.rows; row += kRows) {
      const int64_t at = row * groups + from * kRows;
      work.x = p.x + at * kGroup;
      work.x_scale = p.x_scale + at;
      work.x_total = p.x_total + at;
      float* waiting = s.sums + row * kPanels * kPanelRows;
      __m512 sum[kPanels][kRows];
#pragma GCC unroll 2
      for (int i = 0; i < kPanels; ++i)
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
          sum[i][r] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(waiting + (i * kRows + r) * kPanelRows);
      add_groups<F, kRows, kPanels>(s, work, sum);
      work.ahead[0] = nullptr;
#pragma GCC unroll 2
      for (int i = 0; i < kPanels; ++i)
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) _mm512_store_ps(waiting + (i * kRows + r) * kPanelRows, sum[i][r]);
      if (!is_last) continue;
      for (int64_t i = 0; i < kPanels; ++i)
        for (int64_t r = 0; r < kRows && row + r < p.rows; ++r) {
          F32x16 v;
          load16(waiting + (i * kRows + r) * kPanelRows, v);
          if constexpr (F::kScaled)
            finish16(p, row + r, panel + i, v);
          else
            finish_int8(p, row + r, panel + i, v);
        }
    }
  }
}

struct alignas(64) TileConfig {
  uint8_t palette, start, unused[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

template <class F, int kRows>
void blocks(const Product& p, int64_t first, int64_t last) {
  TileConfig config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = tile == 4 || tile == 5 ? kGroup : 64;
    config.rows[tile] = tile >= 6 ? kGroup / 4 : kRows;
  }
  // GCC 12 believes that only the first eight bytes are read.
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
  Scratch s;
  int64_t panel = first;
  for (; panel + 2 <= last; panel += 2) some_panels<F, kRows, 2>(p, panel, panel + 4 <= last, s);
  if (panel < last) some_panels<F, kRows, 1>(p, panel, false, s);
  // Cheaper for whoever switches threads, and the library's own kernels begin afresh.
  _tile_release();
}

template <class F>
void any_blocks(const Product& p, int64_t first, int64_t last) {
  switch (p.block) {
    case 4: return blocks<F, 4>(p, first, last);
    case 8: return blocks<F, 8>(p, first, last);
    default: return blocks<F, 12>(p, first, last);
  }
}

}  // namespace

void int8_amx(const Product& p, int64_t first, int64_t last) { any_blocks<Int8>(p, first, last); }

void int4_amx(const Product& p, int64_t first, int64_t last) { any_blocks<Int4<false>>(p, first, last); }

void int4_min_amx(const Product& p, int64_t first, int64_t last) { any_blocks<Int4<true>>(p, first, last); }

bool amx_was_compiled() { return true; }

#else

void int8_amx(const Product&, int64_t, int64_t) {}

void int4_amx(const Product&, int64_t, int64_t) {}

void int4_min_amx(const Product&, int64_t, int64_t) {}

bool amx_was_compiled() { return false; }

#endif
