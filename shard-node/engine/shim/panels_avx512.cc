// Panels with AVX-512 VNNI: 64 products of bytes in one instruction. Compiled for such a CPU as a whole, so
// it includes nothing whose inline functions the linker might give to others.
#include <immintrin.h>

#include "panels.h"

namespace {

// How far ahead of its loads a stream asks for the next lines: beyond a page's end the prefetcher stops.
constexpr int64_t kAhead = 2048;

INLINE __m512i quad(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

template <int kRows>
INLINE void int8_tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t groups = p.width / kGroup;
  const uint8_t* w = p.panels + panel * p.panel_bytes;
  const int8_t* x = p.x + row * p.stride;
  __m512 sum[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
    __m512i four[8];
#pragma GCC unroll 16
    for (int j = 0; j < 8; ++j) {
      const uint8_t* at = w + g * kGroup * kPanelRows + 64 * j;
      _mm_prefetch(at + kAhead, _MM_HINT_T0);
      four[j] = _mm512_loadu_si512(at);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const int8_t* xg = x + r * p.stride + g * kGroup;
      const int64_t at_x = (row + r) * groups + g;
      __m512i a = _mm512_set1_epi32(-128 * p.x_sum[at_x]), b = _mm512_setzero_si512();
#pragma GCC unroll 16
      for (int j = 0; j < 8; j += 2) {
        a = _mm512_dpbusd_epi32(a, four[j], quad(xg + 4 * j));
        b = _mm512_dpbusd_epi32(b, four[j + 1], quad(xg + 4 * j + 4));
      }
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
      sum[r] = _mm512_fmadd_ps(dot, _mm512_set1_ps(p.x_scale[at_x]), sum[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) finish_int8(p, row + r, panel, reinterpret_cast<F32x16>(sum[r]));
}

template <int kRows, bool kMin>
INLINE void int4_tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t groups = p.width / kGroup;
  const uint8_t* w = p.panels + panel * p.panel_bytes;
  const int8_t* x = p.x + row * p.stride;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 sum[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
    __m512i nibbles[8];
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) {
      const uint8_t* at = w + g * group_bytes(kMin) + 64 * j;
      _mm_prefetch(at + kAhead, _MM_HINT_T0);
      const __m512i bytes = _mm512_loadu_si512(at);
      nibbles[j] = _mm512_and_si512(bytes, low);
      nibbles[4 + j] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    }
    const uint8_t* at = w + g * group_bytes(kMin) + kNibbleBytes;
    _mm_prefetch(at + kAhead, _MM_HINT_T0);
    const auto half = [](const uint8_t* h) {
      return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
    };
    const __m512 scale = half(at);
    const __m512 least = kMin ? half(at + kScaleBytes) : _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const int8_t* xg = x + r * p.stride + g * kGroup;
      __m512i a = _mm512_setzero_si512(), b = a;
#pragma GCC unroll 16
      for (int j = 0; j < 4; ++j) {
        a = _mm512_dpbusd_epi32(a, nibbles[j], quad(xg + 4 * j));
        b = _mm512_dpbusd_epi32(b, nibbles[4 + j], quad(xg + 16 + 4 * j));
      }
      const int64_t at_x = (row + r) * groups + g;
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
      sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(p.x_scale[at_x])), dot, sum[r]);
      sum[r] = _mm512_fmadd_ps(least, _mm512_set1_ps(p.x_total[at_x]), sum[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) finish16(p, row + r, panel, reinterpret_cast<F32x16>(sum[r]));
}

template <bool kMin>
INLINE void int4_panels(const Product& p, int64_t first, int64_t last) {
  for (int64_t panel = first; panel < last; ++panel) {
    int64_t row = 0;
    for (; row + 16 <= p.rows; row += 16) int4_tile<16, kMin>(p, row, panel);
    for (; row + 8 <= p.rows; row += 8) int4_tile<8, kMin>(p, row, panel);
    for (; row + 4 <= p.rows; row += 4) int4_tile<4, kMin>(p, row, panel);
    for (; row + 2 <= p.rows; row += 2) int4_tile<2, kMin>(p, row, panel);
    for (; row < p.rows; ++row) int4_tile<1, kMin>(p, row, panel);
  }
}

}  // namespace

void int8_avx512(const Product& p, int64_t first, int64_t last) {
  for (int64_t panel = first; panel < last; ++panel) {
    int64_t row = 0;
    for (; row + 16 <= p.rows; row += 16) int8_tile<16>(p, row, panel);
    for (; row + 8 <= p.rows; row += 8) int8_tile<8>(p, row, panel);
    for (; row + 4 <= p.rows; row += 4) int8_tile<4>(p, row, panel);
    for (; row + 2 <= p.rows; row += 2) int8_tile<2>(p, row, panel);
    for (; row < p.rows; ++row) int8_tile<1>(p, row, panel);
  }
}

void int4_avx512(const Product& p, int64_t first, int64_t last) { int4_panels<false>(p, first, last); }

void int4_min_avx512(const Product& p, int64_t first, int64_t last) { int4_panels<true>(p, first, last); }
