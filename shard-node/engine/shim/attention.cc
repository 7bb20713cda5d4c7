// Attention of single query rows over a contiguous cache, for the CPU.
//
// Blocks of 64 positions from the first it sees on, a running maximum and sum (Dao et al. 2022, FlashAttention):
// a row's arithmetic depends on the row and on the positions it sees, on nothing else. Each key is
// widened once for up to four query heads that share it. Scales of keys in 8 bits multiply scores, those of values
// weights: neither is applied element by element.
#include <cmath>
#include <type_traits>

#include "team.h"
#include "values.h"

// One query row [heads, dim] against `seen` positions of keys, values [kv_heads, capacity, dim], which begin at the first
// that it sees. With scales [kv_heads, capacity], else null, they are in 8 bits.
struct AttendRow {
  const void* query;
  const void* keys;
  const void* values;
  const float* key_scales;
  const float* value_scales;
  void* out;
  int64_t seen;
  int64_t capacity;
};

namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kMaxDim = 512;  // as in rows.cc

typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef uint16_t U16x8 __attribute__((vector_size(16)));

// Sixteen lanes as AVX2 has them: GCC keeps a vector wider than the CPU's in memory.
struct Two {
  F32x8 low, high;

  INLINE Two operator*(const Two& other) const { return {low * other.low, high * other.high}; }
  INLINE Two operator*(float f) const { return {low * f, high * f}; }
  INLINE void operator+=(const Two& other) {
    low += other.low;
    high += other.high;
  }
};

using ::head16;
using ::load16;
using ::sum16;
using ::sums16;

INLINE void load8(const float* p, F32x8& v) { std::memcpy(&v, p, 32); }
INLINE void load8(const Bf16* p, F32x8& v) {
  U16x8 narrow;
  std::memcpy(&narrow, p, 16);
  const U32x8 wide = __builtin_convertvector(narrow, U32x8) << 16;
  std::memcpy(&v, &wide, 32);
}

template <class T>
INLINE void load16(const T* p, Two& v) {
  load8(p, v.low);
  load8(p + 8, v.high);
}
template <class T>
INLINE void head16(const T* head, int64_t at, int64_t, Two& v) {
  load16(head + at, v);
}
INLINE void head16(const int8_t* head, int64_t at, int64_t dim, Two& v) {
  if (at < dim / 64 * 64) {
    I32x8 words[2];
    std::memcpy(words, head + at / 64 * 64, 64);
    const int up = static_cast<int>(24 - at % 64 / 2);
    v = {__builtin_convertvector((words[0] << up) >> 24, F32x8), __builtin_convertvector((words[1] << up) >> 24, F32x8)};
  } else {
    F32x16 all;
    load16(head + at, all);
    std::memcpy(&v, &all, 64);
  }
}

INLINE float sum16(const Two& v) { return sum16(v.low + v.high); }
INLINE F32x16 sums16(const Two* v) {
  F32x8 sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = v[i].low + v[i].high;
  return sums16(sums);
}

// Vectors of sums of values that fit the registers beside what is added.
template <class V>
constexpr int kMostWide = 2;
template <>
constexpr int kMostWide<Two> = 1;

// Sums of the products of kQueries queries with one key, in sixteen lanes each: a key is widened once for all of them.
// kDim 0: any width, with a tail that is no whole vector.
template <class V, class K, int kQueries, int kDim, int kWidth>
INLINE void products(const float (&q)[kQueries][kWidth], const K* key, int64_t dim_any, V (&sum)[kQueries]) {
  const int64_t dim = kDim > 0 ? kDim : dim_any;
  for (int h = 0; h < kQueries; ++h) sum[h] = V{};
  for (int64_t i = 0; i + 16 <= dim; i += 16) {
    V b;
    head16(key, i, dim, b);
    for (int h = 0; h < kQueries; ++h) {
      V a;
      load16(q[h] + i, a);
      sum[h] += a * b;
    }
  }
}

// Adds kWide vectors of weighted values from element `at` on; the sums stay in registers for a whole block.
template <class V, class K, int kQueries, int kWide, int kWidth>
INLINE void add_values(const K* value, const float (&weight)[kQueries][64], float (&acc)[kQueries][kWidth], int64_t at,
                       int64_t count, int64_t dim) {
  V sum[kQueries][kWide];
  for (int h = 0; h < kQueries; ++h)
    for (int w = 0; w < kWide; ++w) load16(acc[h] + at + 16 * w, sum[h][w]);
  for (int64_t j = 0; j < count; ++j) {
    V v[kWide];
    for (int w = 0; w < kWide; ++w) head16(value + j * dim, at + 16 * w, dim, v[w]);
    for (int h = 0; h < kQueries; ++h)
      for (int w = 0; w < kWide; ++w) sum[h][w] += v[w] * weight[h][j];
  }
  for (int h = 0; h < kQueries; ++h)
    for (int w = 0; w < kWide; ++w) std::memcpy(acc[h] + at + 16 * w, &sum[h][w], 64);
}

// The positions of one key head that a row sees.
template <class K>
struct Seen {
  const K* keys;
  const K* values;
  const float* key_scales;  // of int8_t only
  const float* value_scales;
  int64_t count;
};

// kQueries query heads that share one key head.
template <class V, class T, class K, int kQueries, int kDim>
INLINE void attend(const T* query, const Seen<K>& cache, T* out, int64_t dim_any, float scale) {
  constexpr bool kQuantised = std::is_same<K, int8_t>::value;
  const K *const keys = cache.keys, *const values = cache.values;
  const int64_t seen = cache.count;
  const int64_t dim = kDim > 0 ? kDim : dim_any;
  alignas(64) float q[kQueries][kDim > 0 ? kDim : kMaxDim];
  alignas(64) float acc[kQueries][kDim > 0 ? kDim : kMaxDim];
  float top[kQueries], total[kQueries];
  for (int h = 0; h < kQueries; ++h) {
    top[h] = -INFINITY;
    total[h] = 0;
    for (int64_t i = 0; i < dim; ++i) {
      q[h][i] = load(query + h * dim + i) * scale;
      acc[h][i] = 0;
    }
  }
  for (int64_t begin = 0; begin < seen; begin += kBlock) {
    const int64_t count = seen - begin < kBlock ? seen - begin : kBlock;
    alignas(64) float weight[kQueries][kBlock];
    int64_t j = 0;
    if (dim % 16 == 0)
      for (; j + 16 <= count; j += 16) {
        V part[kQueries][16];
        for (int key = 0; key < 16; ++key) {
          V sum[kQueries];
          products<V, K, kQueries, kDim>(q, keys + (begin + j + key) * dim, dim, sum);
          for (int h = 0; h < kQueries; ++h) part[h][key] = sum[h];
        }
        for (int h = 0; h < kQueries; ++h) {
          const F32x16 sums = sums16(part[h]);
          std::memcpy(weight[h] + j, &sums, 64);
        }
      }
    for (; j < count; ++j) {
      const K* key = keys + (begin + j) * dim;
      V sum[kQueries];
      products<V, K, kQueries, kDim>(q, key, dim, sum);
      for (int h = 0; h < kQueries; ++h) {
        float tail = 0;
        for (int64_t i = dim / 16 * 16; i < dim; ++i) tail += q[h][i] * load(key + i);
        weight[h][j] = sum16(sum[h]) + tail;
      }
    }
    for (int h = 0; h < kQueries; ++h) {
      if constexpr (kQuantised)
        for (int64_t j = 0; j < count; ++j) weight[h][j] *= cache.key_scales[begin + j];
      float peak = top[h];
      for (int64_t j = 0; j < count; ++j) peak = weight[h][j] > peak ? weight[h][j] : peak;
      const float keep = exp_fast(top[h] - peak);
      top[h] = peak;
      for (int64_t j = 0; j < count; ++j) weight[h][j] = exp_fast(weight[h][j] - peak);
      for (int64_t j = count; j < kBlock; ++j) weight[h][j] = 0;
      V sum = {};
      for (int64_t j = 0; j < kBlock; j += 16) {
        V v;
        load16(weight[h] + j, v);
        sum += v;
      }
      total[h] = total[h] * keep + sum16(sum);
      if constexpr (kQuantised)
        for (int64_t j = 0; j < count; ++j) weight[h][j] *= cache.value_scales[begin + j];
      for (int64_t i = 0; i < dim; ++i) acc[h][i] *= keep;
    }
    const K* value = values + begin * dim;
    int64_t i = 0;
    if (kMostWide<V> == 2)
      for (; i + 32 <= dim; i += 32) add_values<V, K, kQueries, 2>(value, weight, acc, i, count, dim);
    for (; i + 16 <= dim; i += 16) add_values<V, K, kQueries, 1>(value, weight, acc, i, count, dim);
    for (; i < dim; ++i)
      for (int h = 0; h < kQueries; ++h)
        for (int64_t j = 0; j < count; ++j) acc[h][i] += weight[h][j] * load(value + j * dim + i);
  }
  for (int h = 0; h < kQueries; ++h) {
    const float inverse = 1.0f / total[h];
    for (int64_t i = 0; i < dim; ++i) store(out + h * dim + i, acc[h][i] * inverse);
  }
}

template <class V, class T, class K, int kDim>
INLINE void attend_group(const T* query, const Seen<K>& cache, T* out, int64_t queries, int64_t dim, float scale) {
  int64_t h = 0;
  for (; h + 4 <= queries; h += 4) attend<V, T, K, 4, kDim>(query + h * dim, cache, out + h * dim, dim, scale);
  query += h * dim;
  out += h * dim;
  switch (queries - h) {
    case 3: attend<V, T, K, 3, kDim>(query, cache, out, dim, scale); break;
    case 2: attend<V, T, K, 2, kDim>(query, cache, out, dim, scale); break;
    case 1: attend<V, T, K, 1, kDim>(query, cache, out, dim, scale); break;
    default: break;
  }
}

template <class V, class T, class K>
INLINE void attend_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                       float scale) {
  const int64_t group = heads / kv_heads, first = kv_head * group * dim, at = kv_head * row.capacity;
  const T* query = static_cast<const T*>(row.query) + first;
  const Seen<K> cache = {static_cast<const K*>(row.keys) + at * dim, static_cast<const K*>(row.values) + at * dim,
                         row.key_scales ? row.key_scales + at : nullptr,
                         row.value_scales ? row.value_scales + at : nullptr, row.seen};
  T* out = static_cast<T*>(row.out) + first;
  if (dim == 64)
    attend_group<V, T, K, 64>(query, cache, out, group, dim, scale);
  else if (dim == 128)
    attend_group<V, T, K, 128>(query, cache, out, group, dim, scale);
  else
    attend_group<V, T, K, 0>(query, cache, out, group, dim, scale);
}

using Attend = void(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale);

template <class T, class K>
struct Attention {
  __attribute__((target("arch=x86-64-v4"))) static void v4(const AttendRow& row, int64_t kv_head, int64_t heads,
                                                           int64_t kv_heads, int64_t dim, float scale) {
    attend_any<F32x16, T, K>(row, kv_head, heads, kv_heads, dim, scale);
  }
  __attribute__((target("arch=x86-64-v3"))) static void v3(const AttendRow& row, int64_t kv_head, int64_t heads,
                                                           int64_t kv_heads, int64_t dim, float scale) {
    attend_any<Two, T, K>(row, kv_head, heads, kv_heads, dim, scale);
  }
  static void plain(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale) {
    attend_any<F32x16, T, K>(row, kv_head, heads, kv_heads, dim, scale);
  }
  // As EVERY_CPU's, but for the vectors.
  static Attend* best() {
    const int level = ll_cpu_level();
    return level >= kLevel4 ? v4 : level >= kLevel3 ? v3 : plain;
  }
};

}  // namespace

extern "C" {

// All rows, by the team if `together`; a (row, key head) is never split. Either all rows have scales or none.
void ll_attend(const AttendRow* rows, int64_t count, int64_t heads, int64_t kv_heads, int64_t dim, float scale,
               int bf16, int together) {
  const bool kv8 = count > 0 && rows->key_scales;
  Attend* const attend = kv8    ? Attention<Bf16, int8_t>::best()
                         : bf16 ? Attention<Bf16, Bf16>::best()
                                : Attention<float, float>::best();
  const auto one = [=](int64_t job) {
    attend(rows[job / kv_heads], job % kv_heads, heads, kv_heads, dim, scale);
  };
  const int64_t jobs = count * kv_heads;
  if (together) return in_team(jobs, one);
  for (int64_t job = 0; job < jobs; ++job) one(job);
}

}  // extern "C"
