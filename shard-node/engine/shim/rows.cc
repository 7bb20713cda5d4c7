// Row kernels for the CPU: what sits between two linears of a decoder layer.
// ATen needs 5 to 10 small operators for each of these, and a decode step is made of
// small operators. Every row is computed alone and in one fixed order, so a row's bits
// depend neither on its index nor on how many rows come with it.
//
// Compiled with -ffp-contract=off: a compiler may pick vector or scalar code for the same
// loop by where its arguments lie, and only without contraction both give the same bits. For the same
// reason every x86-64 level gives the same bits here (a test holds it); attention and head are promised
// the same bits on one level only.
//
// Values are f32 or bf16 in memory (`bf16` != 0) and f32 in between.
#include <cmath>
#include <type_traits>

#include "values.h"

// What some families add to queries, keys and values; null where a family has none of it.
struct HeadExtras {
  const float* bias;        // [(heads + 2 kv_heads) dim]
  const float* query_norm;  // [dim]
  const float* key_norm;    // [dim]
  float eps;
};

namespace {

template <class T>
INLINE float sum_of_squares(const T* x, int64_t n) {
  F32x16 part = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    F32x16 v;
    load16(x + i, v);
    part += v * v;
  }
  float tail = 0;
  for (; i < n; ++i) tail += load(x + i) * load(x + i);
  return sum16(part) + tail;
}

template <class T>
INLINE float norm_scale(const T* x, int64_t n, float eps) {
  return 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
}

// `residual` is null or added.
template <class T>
INLINE void rms_norm(const T* x, const float* weight, const T* residual, T* out, int64_t rows, int64_t n, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    const float scale = norm_scale(x, n, eps);
    if (residual) {
      for (int64_t i = 0; i < n; ++i) store(out + i, load(x + i) * scale * weight[i] + load(residual + i));
      residual += n;
    } else {
      for (int64_t i = 0; i < n; ++i) store(out + i, load(x + i) * scale * weight[i]);
    }
  }
}

constexpr int64_t kMaxDim = 512;  // src/kernels/rows.rs refuses wider heads

// Adds `bias`, norms by `norm` (either may be null) and rotates. `out` may be `head`: the copy to the stack also
// lets the compiler use vectors.
template <class T, class Out>
INLINE void rotate(const T* head, const float* bias, const float* norm, float eps, const float* cos, const float* sin,
                   int64_t half, Out* out) {
  float x[kMaxDim];
  for (int64_t i = 0; i < 2 * half; ++i) x[i] = load(head + i);
  if (bias)
    for (int64_t i = 0; i < 2 * half; ++i) x[i] += bias[i];
  if (norm) {
    const float scale = norm_scale(x, 2 * half, eps);
    for (int64_t i = 0; i < 2 * half; ++i) x[i] = x[i] * scale * norm[i];
  }
  for (int64_t i = 0; i < half; ++i) store(out + i, x[i] * cos[i] - x[half + i] * sin[i]);
  for (int64_t i = 0; i < half; ++i) store(out + half + i, x[half + i] * cos[i] + x[i] * sin[i]);
}

// To the nearest whole number, of two the even one, within -127..127.
INLINE I32x16 whole(F32x16 x) {
  constexpr float kWhole = 12582912;  // 1.5 * 2^23: adding and subtracting it rounds
  const F32x16 most = F32x16{} + 127;
  F32x16 r = (x + kWhole) - kWhole;
  r = r < most ? r : most;
  r = r > -most ? r : -most;
  return __builtin_convertvector(r, I32x16);
}

// One head of one position in 8 bits, as `head16` reads it: the nearest whole multiples of the 127th part of the
// largest value, which goes to `scale`. A value that is no number makes the scale one, so that whoever reads the head
// sees it.
INLINE void quantise(const float* x, int64_t n, int8_t* out, float* scale) {
  F32x16 tops = {}, odds = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    F32x16 v;
    load16(x + i, v);
    const F32x16 size = v < 0 ? -v : v;
    tops = size > tops ? size : tops;
    odds += v - v;
  }
  float top = 0, odd = 0;
  for (int lane = 0; lane < 16; ++lane) {
    top = tops[lane] > top ? tops[lane] : top;
    odd += odds[lane];
  }
  for (; i < n; ++i) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    top = size > top ? size : top;
    odd += x[i] - x[i];
  }
  *scale = top / 127 + odd;
  const float inverse = top > 0 ? 127 / top : 0;
  for (i = 0; i + 64 <= n; i += 64) {
    I32x16 words = {};
    for (int k = 0; k < 4; ++k) {
      F32x16 v;
      load16(x + i + 16 * k, v);
      words |= (whole(v * inverse) & 255) << (8 * k);
    }
    std::memcpy(out + i, &words, 64);
  }
  for (; i < n; ++i) {
    const F32x16 v = {x[i] * inverse};
    out[i] = static_cast<int8_t>(whole(v)[0]);
  }
}

// Where a layer of a session keeps keys and values [kv_heads, capacity, dim]; with K in 8 bits also their scales
// [kv_heads, capacity], which are null otherwise.
template <class K>
struct Cache {
  K* keys;
  K* values;
  float* key_scales;
  float* value_scales;
};

template <class T, class K>
INLINE void rope_append(T* qkv, const HeadExtras& extras, const float* cos, const float* sin, const Cache<K>& cache,
                        int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim, int64_t start, int64_t capacity) {
  constexpr bool kQuantised = std::is_same<K, int8_t>::value;
  const float eps = extras.eps;
  const int64_t half = dim / 2, width = (heads + 2 * kv_heads) * dim;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = start + r;
    const float *c = cos + position * half, *s = sin + position * half;
    T* row = qkv + r * width;
    const float* bias = extras.bias;
    for (int64_t h = 0; h < heads; ++h, row += dim) {
      rotate(row, bias, extras.query_norm, eps, c, s, half, row);
      if (bias) bias += dim;
    }
    for (int64_t h = 0; h < kv_heads; ++h, row += dim) {
      const int64_t at = h * capacity + position;
      if constexpr (kQuantised) {
        float key[kMaxDim];
        rotate(row, bias, extras.key_norm, eps, c, s, half, key);
        quantise(key, dim, cache.keys + at * dim, cache.key_scales + at);
      } else {
        rotate(row, bias, extras.key_norm, eps, c, s, half, cache.keys + at * dim);
      }
      if (bias) bias += dim;
    }
    for (int64_t h = 0; h < kv_heads; ++h, row += dim) {
      const int64_t at = h * capacity + position;
      if constexpr (kQuantised) {
        float value[kMaxDim];
        for (int64_t i = 0; i < dim; ++i) value[i] = load(row + i) + (bias ? bias[i] : 0);
        quantise(value, dim, cache.values + at * dim, cache.value_scales + at);
      } else if (bias) {
        for (int64_t i = 0; i < dim; ++i) store(cache.values + at * dim + i, load(row + i) + bias[i]);
      } else {
        std::memcpy(cache.values + at * dim, row, dim * sizeof(T));
      }
      if (bias) bias += dim;
    }
  }
}

// Heads [rows, dim] in 8 bits with their scales [rows], to bf16.
INLINE void widen_rows_any(const int8_t* heads, const float* scales, void* out, int64_t rows, int64_t dim) {
  Bf16* to = static_cast<Bf16*>(out);
  for (int64_t r = 0; r < rows; ++r, heads += dim, to += dim) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16) {
      F32x16 v;
      head16(heads, i, dim, v);
      v *= scales[r];
      for (int lane = 0; lane < 16; ++lane) store(to + i + lane, v[lane]);
    }
    for (; i < dim; ++i) store(to + i, load(heads + i) * scales[r]);
  }
}

EVERY_CPU(widen_rows, (const int8_t* heads, const float* scales, void* out, int64_t rows, int64_t dim),
          (heads, scales, out, rows, dim))

template <class T>
INLINE void silu_mul(const T* gate_up, T* out, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, gate_up += 2 * n, out += n)
    for (int64_t i = 0; i < n; ++i) {
      float g = load(gate_up + i);
      store(out + i, g / (1.0f + exp_fast(-g)) * load(gate_up + n + i));
    }
}

// (1 + tanh(y)) / 2 is 1 / (1 + exp(-2 y)).
template <class T>
INLINE void gelu_mul(const T* gate_up, T* out, int64_t rows, int64_t n) {
  constexpr float kTwice = 2 * 0.7978845608028654f, kCubic = kTwice * 0.044715f;  // sqrt(2 / pi)
  for (int64_t r = 0; r < rows; ++r, gate_up += 2 * n, out += n)
    for (int64_t i = 0; i < n; ++i) {
      float g = load(gate_up + i);
      store(out + i, g / (1.0f + exp_fast(-g * (kTwice + kCubic * g * g))) * load(gate_up + n + i));
    }
}

INLINE void norm_rows_any(const void* x, const float* weight, const void* residual, void* out, int64_t rows, int64_t n,
                          float eps, int bf16) {
  if (bf16)
    rms_norm(static_cast<const Bf16*>(x), weight, static_cast<const Bf16*>(residual), static_cast<Bf16*>(out), rows, n,
             eps);
  else
    rms_norm(static_cast<const float*>(x), weight, static_cast<const float*>(residual), static_cast<float*>(out), rows,
             n, eps);
}

EVERY_CPU(norm_rows,
          (const void* x, const float* weight, const void* residual, void* out, int64_t rows, int64_t n, float eps,
           int bf16),
          (x, weight, residual, out, rows, n, eps, bf16))

template <class T, class K>
INLINE void rope_rows_of(void* qkv, const HeadExtras* extras, const float* cos, const float* sin, void* keys,
                         void* values, float* key_scales, float* value_scales, int64_t rows, int64_t heads,
                         int64_t kv_heads, int64_t dim, int64_t start, int64_t capacity) {
  const Cache<K> cache = {static_cast<K*>(keys), static_cast<K*>(values), key_scales, value_scales};
  rope_append(static_cast<T*>(qkv), *extras, cos, sin, cache, rows, heads, kv_heads, dim, start, capacity);
}

INLINE void rope_rows_any(void* qkv, const HeadExtras* extras, const float* cos, const float* sin, void* keys,
                          void* values, float* key_scales, float* value_scales, int64_t rows, int64_t heads,
                          int64_t kv_heads, int64_t dim, int64_t start, int64_t capacity, int bf16) {
  if (key_scales)
    rope_rows_of<Bf16, int8_t>(qkv, extras, cos, sin, keys, values, key_scales, value_scales, rows, heads, kv_heads,
                               dim, start, capacity);
  else if (bf16)
    rope_rows_of<Bf16, Bf16>(qkv, extras, cos, sin, keys, values, nullptr, nullptr, rows, heads, kv_heads, dim, start,
                             capacity);
  else
    rope_rows_of<float, float>(qkv, extras, cos, sin, keys, values, nullptr, nullptr, rows, heads, kv_heads, dim,
                               start, capacity);
}

EVERY_CPU(rope_rows,
          (void* qkv, const HeadExtras* extras, const float* cos, const float* sin, void* keys, void* values,
           float* key_scales, float* value_scales, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim,
           int64_t start, int64_t capacity, int bf16),
          (qkv, extras, cos, sin, keys, values, key_scales, value_scales, rows, heads, kv_heads, dim, start, capacity,
           bf16))

INLINE void silu_rows_any(const void* gate_up, void* out, int64_t rows, int64_t n, int bf16) {
  if (bf16)
    silu_mul(static_cast<const Bf16*>(gate_up), static_cast<Bf16*>(out), rows, n);
  else
    silu_mul(static_cast<const float*>(gate_up), static_cast<float*>(out), rows, n);
}

EVERY_CPU(silu_rows, (const void* gate_up, void* out, int64_t rows, int64_t n, int bf16),
          (gate_up, out, rows, n, bf16))

INLINE void gelu_rows_any(const void* gate_up, void* out, int64_t rows, int64_t n, int bf16) {
  if (bf16)
    gelu_mul(static_cast<const Bf16*>(gate_up), static_cast<Bf16*>(out), rows, n);
  else
    gelu_mul(static_cast<const float*>(gate_up), static_cast<float*>(out), rows, n);
}

EVERY_CPU(gelu_rows, (const void* gate_up, void* out, int64_t rows, int64_t n, int bf16),
          (gate_up, out, rows, n, bf16))

}  // namespace

extern "C" {

// out[r] = x[r] / rms(x[r]) * weight, plus residual[r] unless that is null; x, residual, out [rows, n]; weight f32 [n].
void ll_rms_norm(const void* x, const float* weight, const void* residual, void* out, int64_t rows, int64_t n,
                 float eps, int bf16) {
  norm_rows()(x, weight, residual, out, rows, n, eps, bf16);
}

// `qkv` [rows, heads + 2 kv_heads, dim] of consecutive positions from `start`: adds the bias, norms heads of queries
// and keys, rotates the queries in place, writes rotated keys and values to their place in the caches
// [kv_heads, capacity, dim]. cos, sin [positions, dim / 2]. With scales [kv_heads, capacity], else null, the caches
// are in 8 bits and qkv is bf16.
void ll_rope_append(void* qkv, const HeadExtras* extras, const float* cos, const float* sin, void* keys, void* values,
                    float* key_scales, float* value_scales, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim,
                    int64_t start, int64_t capacity, int bf16) {
  rope_rows()(qkv, extras, cos, sin, keys, values, key_scales, value_scales, rows, heads, kv_heads, dim, start,
              capacity, bf16);
}

// Heads [rows, dim] in 8 bits with their scales [rows], to bf16.
void ll_widen_heads(const int8_t* heads, const float* scales, void* out, int64_t rows, int64_t dim) {
  widen_rows()(heads, scales, out, rows, dim);
}

// out[r] = silu(gate) * up for gate_up [rows, 2, n]; out [rows, n].
void ll_silu_mul(const void* gate_up, void* out, int64_t rows, int64_t n, int bf16) {
  silu_rows()(gate_up, out, rows, n, bf16);
}

// out[r] = gelu(gate) * up by the tanh formula, shapes as above.
void ll_gelu_mul(const void* gate_up, void* out, int64_t rows, int64_t n, int bf16) {
  gelu_rows()(gate_up, out, rows, n, bf16);
}

}  // extern "C"
