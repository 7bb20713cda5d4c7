// f32 and bf16 in memory, f32 in between; sixteen at a time as a GCC vector, which every copy of a
// kernel lowers to what its CPU has. Sums go in one fixed order: sixteen lanes, then by halves.
#pragma once
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

// The x86-64 level that kernels may use, in torch.cc: what the CPU has, but no more than ATen takes. So one
// variable, ATEN_CPU_CAPABILITY=default|avx2|avx512, limits the library's kernels and ours alike, and with
// ONEDNN_MAX_CPU_ISA=AVX2 for oneDNN a machine computes as one without AVX-512. Tests choose a level for their
// thread (ll_force_cpu_level), so ask on the thread that calls the shim, before any parallel loop.
enum : int { kPlain = 0, kLevel3 = 3, kLevel4 = 4 };
extern "C" int ll_cpu_level();

// One copy of NAME_any per level. NAME() is a pointer to the one to take now. What needs more than a level
// gives (VNNI, bf16 products) is written apart and chosen where ll_cpu_level() is kLevel4 and
// __builtin_cpu_supports names it, so that the variable above still rules.
#define EVERY_CPU(NAME, PARAMETERS, ARGUMENTS)                                                             \
  __attribute__((target("arch=x86-64-v4"))) static void NAME##_v4 PARAMETERS { NAME##_any ARGUMENTS; }     \
  __attribute__((target("arch=x86-64-v3"))) static void NAME##_v3 PARAMETERS { NAME##_any ARGUMENTS; }     \
  static void NAME##_plain PARAMETERS { NAME##_any ARGUMENTS; }                                            \
  static decltype(&NAME##_plain) NAME() {                                                                  \
    const int level = ll_cpu_level();                                                                      \
    return level >= kLevel4 ? NAME##_v4 : level >= kLevel3 ? NAME##_v3 : NAME##_plain;                     \
  }

struct Bf16 {
  uint16_t bits;
};

typedef float F32x4 __attribute__((vector_size(16)));
typedef float F32x8 __attribute__((vector_size(32)));
typedef uint32_t U32x8 __attribute__((vector_size(32)));
typedef float F32x16 __attribute__((vector_size(64)));
typedef uint32_t U32x16 __attribute__((vector_size(64)));
typedef uint16_t U16x16 __attribute__((vector_size(32)));
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef int16_t I16x16 __attribute__((vector_size(32)));
typedef int8_t I8x16 __attribute__((vector_size(16)));

static INLINE float load(const float* p) { return *p; }
static INLINE float load(const Bf16* p) {
  uint32_t u = static_cast<uint32_t>(p->bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
static INLINE float load(const int8_t* p) { return static_cast<float>(*p); }
static INLINE void store(float* p, float f) { *p = f; }
// Rounds to nearest even; a NaN stays one because its upper mantissa bit is set.
static INLINE void store(Bf16* p, float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  uint32_t quiet = (u >> 16) | 0x40u;
  p->bits = static_cast<uint16_t>(f != f ? quiet : rounded);
}

static INLINE void load16(const float* p, F32x16& v) { std::memcpy(&v, p, 64); }
static INLINE void load16(const Bf16* p, F32x16& v) {
  U16x16 narrow;
  std::memcpy(&narrow, p, 32);
  U32x16 wide = __builtin_convertvector(narrow, U32x16) << 16;
  std::memcpy(&v, &wide, 64);
}

// By way of 16 bits: GCC 12 makes scalar code of a step over two sizes.
static INLINE void load16(const int8_t* p, F32x16& v) {
  I8x16 narrow;
  std::memcpy(&narrow, p, 16);
  const I16x16 wider = __builtin_convertvector(narrow, I16x16);
  v = __builtin_convertvector(__builtin_convertvector(wider, I32x16), F32x16);
}

// Elements `at`.. `at + 16` of a head of `dim`, `at` a multiple of 16.
template <class T>
static INLINE void head16(const T* head, int64_t at, int64_t, F32x16& v) {
  load16(head + at, v);
}
// A head in 8 bits is stored in blocks of 64 elements as sixteen words: byte k of word i is element 16 k + i. Two shifts
// of a whole vector then take sixteen elements out, where bytes in a row would need shuffles, which are dearer than the
// products. What is left of a head that is no whole blocks follows in order.
static INLINE void head16(const int8_t* head, int64_t at, int64_t dim, F32x16& v) {
  if (at < dim / 64 * 64) {
    I32x16 words;
    std::memcpy(&words, head + at / 64 * 64, 64);
    const int up = static_cast<int>(24 - at % 64 / 2);
    v = __builtin_convertvector((words << up) >> 24, F32x16);
  } else {
    load16(head + at, v);
  }
}

// Lanes eight apart.
static INLINE F32x8 halves_sum(F32x16 v) {
  F32x8 low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  return low + high;
}

// By vectors that every level has, as sums16: of a wider one GCC takes a shuffle apart value by value.
static INLINE float sum16(F32x8 eight) {
  F32x4 low, high;
  std::memcpy(&low, &eight, 16);
  std::memcpy(&high, reinterpret_cast<const char*>(&eight) + 16, 16);
  const F32x4 four = low + high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}
static INLINE float sum16(F32x16 v) { return sum16(halves_sum(v)); }

// sum16 of each of sixteen vectors, added in the same order; of their halves_sum.
static INLINE F32x16 sums16(const F32x8* v) {
  constexpr U32x8 kLow4 = {0, 1, 2, 3, 8, 9, 10, 11}, kHigh4 = {4, 5, 6, 7, 12, 13, 14, 15};
  constexpr U32x8 kLow2 = {0, 1, 8, 9, 4, 5, 12, 13}, kHigh2 = {2, 3, 10, 11, 6, 7, 14, 15};
  constexpr U32x8 kLow1 = {0, 2, 8, 10, 4, 6, 12, 14}, kHigh1 = {1, 3, 9, 11, 5, 7, 13, 15};
  F32x8 sums[2];
  for (int half = 0; half < 2; ++half) {
    // Lanes four apart: i's in the low half, those of i + 4 in the high one. Then two, then one apart.
    F32x8 a[4], b[2];
    for (int i = 0; i < 4; ++i) {
      const F32x8 p = v[8 * half + i], q = v[8 * half + i + 4];
      a[i] = __builtin_shuffle(p, q, kLow4) + __builtin_shuffle(p, q, kHigh4);
    }
    for (int i = 0; i < 2; ++i)
      b[i] = __builtin_shuffle(a[2 * i], a[2 * i + 1], kLow2) + __builtin_shuffle(a[2 * i], a[2 * i + 1], kHigh2);
    sums[half] = __builtin_shuffle(b[0], b[1], kLow1) + __builtin_shuffle(b[0], b[1], kHigh1);
  }
  F32x16 all;
  std::memcpy(&all, sums, 64);
  return all;
}
static INLINE F32x16 sums16(const F32x16* v) {
  F32x8 halves[16];
  for (int i = 0; i < 16; ++i) halves[i] = halves_sum(v[i]);
  return sums16(halves);
}

// exp as 2^k times a polynomial (Cephes expf), relative error below 2e-7; no branches, so that it vectorises.
static INLINE float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float k = x * 1.44269504088896341f;
  k = static_cast<float>(static_cast<int32_t>(k + (k < 0 ? -0.5f : 0.5f)));
  float r = x - k * 0.693359375f + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t e = (static_cast<int32_t>(k) + 127) << 23;
  float scale;
  std::memcpy(&scale, &e, 4);
  return p * scale;
}
