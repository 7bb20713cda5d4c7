// Panels with AVX2. Products of unsigned and signed bytes are added in pairs to int16, which must not
// saturate: int8 weights give their sign to x first, so that a pair is at most 2 * 127 * 127; nibbles are
// small enough for eight pairs. Compiled for such a CPU as a whole, like panels_avx512.cc.
#include <immintrin.h>

#include "panels.h"

namespace {

constexpr int64_t kAhead = 2048;

INLINE __m256i quad(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

INLINE __m256i load32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

INLINE F32x16 both(__m256 a, __m256 b) {
  F32x16 v;
  std::memcpy(&v, &a, 32);
  std::memcpy(reinterpret_cast<char*>(&v) + 32, &b, 32);
  return v;
}

template <int kRows>
INLINE void int8_tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t groups = p.width / kGroup;
  const uint8_t* w = p.panels + panel * p.panel_bytes;
  const int8_t* x = p.x + row * p.stride;
  const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8(-128);
  __m256 sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < groups; ++g)
#pragma GCC unroll 16
    for (int h = 0; h < 2; ++h) {
      __m256i dot[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) dot[r] = _mm256_setzero_si256();
#pragma GCC unroll 16
      for (int j = 0; j < 8; ++j) {
        const uint8_t* at = w + g * kGroup * kPanelRows + 64 * j + 32 * h;
        _mm_prefetch(at + kAhead, _MM_HINT_T0);
        const __m256i four = _mm256_xor_si256(load32(at), offset), size = _mm256_abs_epi8(four);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const __m256i q = _mm256_sign_epi8(quad(x + r * p.stride + g * kGroup + 4 * j), four);
          dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(_mm256_maddubs_epi16(size, q), ones));
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const __m256 scale = _mm256_set1_ps(p.x_scale[(row + r) * groups + g]);
        sum[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), scale, sum[r][h]);
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) finish_int8(p, row + r, panel, both(sum[r][0], sum[r][1]));
}

template <int kRows, bool kMin>
INLINE void int4_tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t groups = p.width / kGroup;
  const uint8_t* w = p.panels + panel * p.panel_bytes;
  const int8_t* x = p.x + row * p.stride;
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const auto half = [](const uint8_t* h) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h)));
  };
  __m256 sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* at = w + g * group_bytes(kMin) + kNibbleBytes;
#pragma GCC unroll 16
    for (int h = 0; h < 2; ++h) {
      __m256i pairs[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) pairs[r] = _mm256_setzero_si256();
#pragma GCC unroll 16
      for (int j = 0; j < 4; ++j) {
        const uint8_t* bytes = w + g * group_bytes(kMin) + 64 * j + 32 * h;
        _mm_prefetch(bytes + kAhead, _MM_HINT_T0);
        const __m256i both_nibbles = load32(bytes);
        const __m256i a = _mm256_and_si256(both_nibbles, low);
        const __m256i b = _mm256_and_si256(_mm256_srli_epi16(both_nibbles, 4), low);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const int8_t* xg = x + r * p.stride + g * kGroup + 4 * j;
          pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(a, quad(xg)));
          pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(b, quad(xg + 16)));
        }
      }
      const __m256 scale = half(at + 16 * h);
      const __m256 least =
          kMin ? half(at + kScaleBytes + 16 * h) : _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int64_t at_x = (row + r) * groups + g;
        const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[r], ones));
        sum[r][h] =
            _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(p.x_scale[at_x])), dot, sum[r][h]);
        sum[r][h] = _mm256_fmadd_ps(least, _mm256_set1_ps(p.x_total[at_x]), sum[r][h]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) finish16(p, row + r, panel, both(sum[r][0], sum[r][1]));
}

template <bool kMin>
INLINE void int4_panels(const Product& p, int64_t first, int64_t last) {
  for (int64_t panel = first; panel < last; ++panel) {
    int64_t row = 0;
    for (; row + 4 <= p.rows; row += 4) int4_tile<4, kMin>(p, row, panel);
    for (; row < p.rows; ++row) int4_tile<1, kMin>(p, row, panel);
  }
}

}  // namespace

void int8_avx2(const Product& p, int64_t first, int64_t last) {
  for (int64_t panel = first; panel < last; ++panel) {
    int64_t row = 0;
    for (; row + 4 <= p.rows; row += 4) int8_tile<4>(p, row, panel);
    for (; row < p.rows; ++row) int8_tile<1>(p, row, panel);
  }
}

void int4_avx2(const Product& p, int64_t first, int64_t last) { int4_panels<false>(p, first, last); }

void int4_min_avx2(const Product& p, int64_t first, int64_t last) { int4_panels<true>(p, first, last); }
