// Attention of single query rows over a contiguous cache, for the CPU.
//
// Blocks of 64 positions from the first it sees on, a running maximum and sum (Dao et al. 2022, FlashAttention):
// a row's arithmetic depends on the row and on the positions it sees, on nothing else. Each key is
// widened once for up to four query heads that share it.
#include <cmath>

#include "team.h"
#include "values.h"

// One query row [heads, dim] against `seen` positions of keys, values [kv_heads, capacity, dim], which begin at the first
// that it sees.
struct AttendRow {
  const void* query;
  const void* keys;
  const void* values;
  void* out;
  int64_t seen;
  int64_t capacity;
};

namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kMaxDim = 512;  // as in rows.cc

// kDim 0: any width, with a tail that is no whole vector.
template <class T, int kDim>
INLINE F32x16 products(const float* q, const T* k, int64_t dim_any) {
  const int64_t dim = kDim > 0 ? kDim : dim_any;
  F32x16 sum = {};
  for (int64_t i = 0; i + 16 <= dim; i += 16) {
    F32x16 a, b;
    load16(q + i, a);
    load16(k + i, b);
    sum += a * b;
  }
  return sum;
}

template <class T, int kDim>
INLINE float dot(const float* q, const T* k, int64_t dim_any) {
  const int64_t dim = kDim > 0 ? kDim : dim_any;
  float tail = 0;
  for (int64_t i = dim / 16 * 16; i < dim; ++i) tail += q[i] * load(k + i);
  return sum16(products<T, kDim>(q, k, dim)) + tail;
}

// Adds kWide vectors of weighted values from element `at` on; the sums stay in registers for a whole block.
template <class T, int kQueries, int kWide, int kWidth>
INLINE void add_values(const T* value, const float (&weight)[kQueries][64], float (&acc)[kQueries][kWidth], int64_t at,
                       int64_t count, int64_t dim) {
  F32x16 sum[kQueries][kWide];
  for (int h = 0; h < kQueries; ++h)
    for (int w = 0; w < kWide; ++w) load16(acc[h] + at + 16 * w, sum[h][w]);
  for (int64_t j = 0; j < count; ++j) {
    F32x16 v[kWide];
    for (int w = 0; w < kWide; ++w) load16(value + j * dim + 16 * w, v[w]);
    for (int h = 0; h < kQueries; ++h)
      for (int w = 0; w < kWide; ++w) sum[h][w] += v[w] * weight[h][j];
  }
  for (int h = 0; h < kQueries; ++h)
    for (int w = 0; w < kWide; ++w) std::memcpy(acc[h] + at + 16 * w, &sum[h][w], 64);
}

// kQueries query heads that share one key head.
template <class T, int kQueries, int kDim>
INLINE void attend(const T* query, const T* keys, const T* values, T* out, int64_t seen, int64_t dim_any,
                   float scale) {
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
      for (; j + 16 <= count; j += 16)
        for (int h = 0; h < kQueries; ++h) {
          F32x16 part[16];
          for (int key = 0; key < 16; ++key) part[key] = products<T, kDim>(q[h], keys + (begin + j + key) * dim, dim);
          const F32x16 sums = sums16(part);
          std::memcpy(weight[h] + j, &sums, 64);
        }
    for (; j < count; ++j)
      for (int h = 0; h < kQueries; ++h) weight[h][j] = dot<T, kDim>(q[h], keys + (begin + j) * dim, dim);
    for (int h = 0; h < kQueries; ++h) {
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
      for (int64_t i = 0; i < dim; ++i) acc[h][i] *= keep;
    }
    const T* value = values + begin * dim;
    int64_t i = 0;
    for (; i + 32 <= dim; i += 32) add_values<T, kQueries, 2>(value + i, weight, acc, i, count, dim);
    for (; i + 16 <= dim; i += 16) add_values<T, kQueries, 1>(value + i, weight, acc, i, count, dim);
    for (; i < dim; ++i)
      for (int h = 0; h < kQueries; ++h)
        for (int64_t j = 0; j < count; ++j) acc[h][i] += weight[h][j] * load(value + j * dim + i);
  }
  for (int h = 0; h < kQueries; ++h) {
    const float inverse = 1.0f / total[h];
    for (int64_t i = 0; i < dim; ++i) store(out + h * dim + i, acc[h][i] * inverse);
  }
}

template <class T, int kDim>
INLINE void attend_group(const T* query, const T* keys, const T* values, T* out, int64_t queries, int64_t seen,
                         int64_t dim, float scale) {
  int64_t h = 0;
  for (; h + 4 <= queries; h += 4)
    attend<T, 4, kDim>(query + h * dim, keys, values, out + h * dim, seen, dim, scale);
  query += h * dim;
  out += h * dim;
  switch (queries - h) {
    case 3: attend<T, 3, kDim>(query, keys, values, out, seen, dim, scale); break;
    case 2: attend<T, 2, kDim>(query, keys, values, out, seen, dim, scale); break;
    case 1: attend<T, 1, kDim>(query, keys, values, out, seen, dim, scale); break;
    default: break;
  }
}

template <class T>
INLINE void attend_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                       float scale) {
  const int64_t group = heads / kv_heads, first = kv_head * group * dim;
  const T* query = static_cast<const T*>(row.query) + first;
  const T* keys = static_cast<const T*>(row.keys) + kv_head * row.capacity * dim;
  const T* values = static_cast<const T*>(row.values) + kv_head * row.capacity * dim;
  T* out = static_cast<T*>(row.out) + first;
  if (dim == 64)
    attend_group<T, 64>(query, keys, values, out, group, row.seen, dim, scale);
  else if (dim == 128)
    attend_group<T, 128>(query, keys, values, out, group, row.seen, dim, scale);
  else
    attend_group<T, 0>(query, keys, values, out, group, row.seen, dim, scale);
}

INLINE void attend_bf16_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                            float scale) {
  attend_any<Bf16>(row, kv_head, heads, kv_heads, dim, scale);
}

EVERY_CPU(attend_bf16,
          (const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale),
          (row, kv_head, heads, kv_heads, dim, scale))

INLINE void attend_f32_any(const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim,
                           float scale) {
  attend_any<float>(row, kv_head, heads, kv_heads, dim, scale);
}

EVERY_CPU(attend_f32,
          (const AttendRow& row, int64_t kv_head, int64_t heads, int64_t kv_heads, int64_t dim, float scale),
          (row, kv_head, heads, kv_heads, dim, scale))

}  // namespace

extern "C" {

// All rows, by the team if `together`; a (row, key head) is never split.
void ll_attend(const AttendRow* rows, int64_t count, int64_t heads, int64_t kv_heads, int64_t dim, float scale,
               int bf16, int together) {
  const auto attend = bf16 ? attend_bf16() : attend_f32();
  const auto one = [=](int64_t job) {
    attend(rows[job / kv_heads], job % kv_heads, heads, kv_heads, dim, scale);
  };
  const int64_t jobs = count * kv_heads;
  if (together) return in_team(jobs, one);
  for (int64_t job = 0; job < jobs; ++job) one(job);
}

}  // extern "C"
