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

// Sums of the products of kQueries queries with one key, in sixteen lanes each: a key is widened once for all of them.
// kDim 0: any width, with a tail that is no whole vector.
template <class K, int kQueries, int kDim, int kWidth>
INLINE void products(const float (&q)[kQueries][kWidth], const K* key, int64_t dim_any, F32x16 (&sum)[kQueries]) {
  const int64_t dim = kDim > 0 ? kDim : dim_any;
  for (int h = 0; h < kQueries; ++h) sum[h] = F32x16{};
  for (int64_t i = 0; i + 16 <= dim; i += 16) {
    F32x16 b;
    head16(key, i, dim, b);
    for (int h = 0; h < kQueries; ++h) {
      F32x16 a;
      load16(q[h] + i, a);
      sum[h] += a * b;
    }
  }
}

// Adds kWide vectors of weighted values from element `at` on; the sums stay in registers for a whole block.
template <class K, int kQueries, int kWide, int kWidth>
INLINE void add_values(const K* value, const float (&weight)[kQueries][64], float (&acc)[kQueries][kWidth], int64_t at,
                       int64_t count, int64_t dim) {
  F32x16 sum[kQueries][kWide];
  for (int h = 0; h < kQueries; ++h)
    for (int w = 0; w < kWide; ++w) load16(acc[h] + at + 16 * w, sum[h][w]);
  for (int64_t j = 0; j < count; ++j) {
    F32x16 v[kWide];
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
template <class T, class K, int kQueries, int kDim>
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
        F32x16 part[kQueries][16];
        for (int key = 0; key < 16; ++key) {
          F32x16 sum[kQueries];
          products<K, kQueries, kDim>(q, keys + (begin + j + key) * dim, dim, sum);
          for (int h = 0; h < kQueries; ++h) part[h][key] = sum[h];
        }
        for (int h = 0; h < kQueries; ++h) {
          const F32x16 sums = sums16(part[h]);
          std::memcpy(weight[h] + j, &sums, 64);
        }
      }
    for (; j < count; ++j) {
      const K* key = keys + (begin + j) * dim;
      F32x16 sum[kQueries];
      products<K, kQueries, kDim>(q, key, dim, sum);
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
      F32x16 sum = {};
      for (int64_t j = 0; j < kBlock; j += 16) {
        F32x16 v;
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
    for (; i + 32 <= dim; i += 32) add_values<K, kQueries, 2>(value, weight, acc, i, count, dim);
    for (; i + 16 <= dim; i += 16) add_values<K, kQueries, 1>(value, weight, acc, i, count, dim);
    for (; i < dim; ++i)
      for (int h = 0; h < kQueries; ++h)
        for (int64_t j = 0; j < count; ++j) acc[h][i] += weight[h][j] * load(value + j * dim + i);
  }
  for (int h = 0; h < kQueries; ++h) {
    const float inverse = 1.0f / total[h];
    for (int64_t i = 0; i < dim; ++i) store(out + h * dim + i, acc[h][i] * inverse);
  }
}

template <class T, class K, int kDim>
INLINE void attend_group(const T* query, const Seen<K>& cache, T* out, int64_t queries, int64_t dim, float scale) {
  int64_t h = 0;
  for (; h + 4 <= queries; h += 4) attend<T, K, 4, kDim>(query + h * dim, cache, out + h * dim, dim, scale);
  query += h * dim;
  out += h * dim;
  switch (queries - h) {
    case 3: attend<T, K, 3, kDim>(query, cache, out, dim, scale); break;
    case 2: attend<T, K, 2, kDim>(query, cache, out, dim, scale); break;
    case 1: attend<T, K, 1, kDim>(query, cache, out, dim, scale); break;
    default: break;
  }
}

template <class T, class K>
INLINE void attend_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                       float scale) {
  const int64_t group = heads / kv_heads, first = kv_head * group * dim, at = kv_head * row.capacity;
  const T* query = static_cast<const T*>(row.query) + first;
  const Seen<K> cache = {static_cast<const K*>(row.keys) + at * dim, static_cast<const K*>(row.values) + at * dim,
                         row.key_scales ? row.key_scales + at : nullptr,
                         row.value_scales ? row.value_scales + at : nullptr, row.seen};
  T* out = static_cast<T*>(row.out) + first;
  if (dim == 64)
    attend_group<T, K, 64>(query, cache, out, group, dim, scale);
  else if (dim == 128)
    attend_group<T, K, 128>(query, cache, out, group, dim, scale);
  else
    attend_group<T, K, 0>(query, cache, out, group, dim, scale);
}

INLINE void attend_bf16_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                            float scale) {
  attend_any<Bf16, Bf16>(row, kv_head, heads, kv_heads, dim, scale);
}

EVERY_CPU(attend_bf16,
          (const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale),
          (row, kv_head, heads, kv_heads, dim, scale))

INLINE void attend_f32_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                           float scale) {
  attend_any<float, float>(row, kv_head, heads, kv_heads, dim, scale);
}

EVERY_CPU(attend_f32,
          (const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale),
          (row, kv_head, heads, kv_heads, dim, scale))

INLINE void attend_kv8_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                           float scale) {
  attend_any<Bf16, int8_t>(row, kv_head, heads, kv_heads, dim, scale);
}

EVERY_CPU(attend_kv8,
          (const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale),
          (row, kv_head, heads, kv_heads, dim, scale))

}  // namespace

extern "C" {

// All rows, by the team if `together`; a (row, key head) is never split. Either all rows have scales or none.
void ll_attend(const AttendRow* rows, int64_t count, int64_t heads, int64_t kv_heads, int64_t dim, float scale,
               int bf16, int together) {
  const bool kv8 = count > 0 && rows->key_scales;
  const auto attend = kv8 ? attend_kv8() : bf16 ? attend_bf16() : attend_f32();
  const auto one = [=](int64_t job) {
    attend(rows[job / kv_heads], job % kv_heads, heads, kv_heads, dim, scale);
  };
  const int64_t jobs = count * kv_heads;
  if (together) return in_team(jobs, one);
  for (int64_t job = 0; job < jobs; ++job) one(job);
}

}  // extern "C"
