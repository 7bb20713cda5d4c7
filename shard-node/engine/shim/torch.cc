// What tch does not bind: inference mode and oneDNN's prepacked linears; and the CPU level of our kernels.
// C ABI for src/ffi.rs. Every function that can fail returns null and leaves
// its reason in a thread-local string (ll_last_error); nothing throws across the border.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "guarded.h"
#include "values.h"

thread_local std::string last_error;

namespace {

using Scalars = c10::List<std::optional<at::Scalar>>;
using Unary = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                         std::string_view, Scalars, std::optional<std::string_view>);
using Binary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                          const std::optional<at::Tensor>&, std::string_view);
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);

thread_local int forced_level = -1;

int own_level() {
  const std::string aten = at::get_cpu_capability();
  if (aten == "AVX512" && __builtin_cpu_supports("x86-64-v4")) return kLevel4;
  if ((aten == "AVX512" || aten == "AVX2") && __builtin_cpu_supports("x86-64-v3")) return kLevel3;
  return kPlain;
}

std::optional<at::Tensor> optional_tensor(const at::Tensor* t) {
  return t == nullptr ? std::nullopt : std::optional<at::Tensor>(*t);
}

}  // namespace

extern "C" {

const char* ll_last_error() { return last_error.c_str(); }

// Enters inference mode on the calling thread until ll_inference_end.
void* ll_inference_begin() {
  return guarded("inference mode", [] { return static_cast<void*>(new c10::InferenceMode(true)); });
}

void ll_inference_end(void* guard) { delete static_cast<c10::InferenceMode*>(guard); }

// The vector level ATen's own kernels use ("DEFAULT", "AVX2", "AVX512"), after ATEN_CPU_CAPABILITY.
const char* ll_cpu_capability() {
  thread_local std::string name;
  try {
    name = at::get_cpu_capability();
  } catch (...) {
    name = "unknown";
  }
  return name.c_str();
}

// See values.h.
int ll_cpu_level() {
  static const int level = own_level();
  return forced_level < 0 ? level : std::min(forced_level, level);
}

// For tests: this thread's calls take at most `level`; -1 ends it. Gives what held before.
int ll_force_cpu_level(int level) { return std::exchange(forced_level, level); }

// 1 if oneDNN has bf16 kernels for this CPU (after ONEDNN_MAX_CPU_ISA), 0 if not, -1 on an error.
int ll_onednn_bf16() {
  int answer = -1;
  guarded("mkldnn::_is_mkldnn_bf16_supported", [&]() -> void* {
    auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    if (!op) {
      last_error = "this libtorch was built without oneDNN";
      return nullptr;
    }
    torch::jit::Stack stack;
    op->callBoxed(stack);
    answer = stack.at(0).toBool() ? 1 : 0;
    return nullptr;
  });
  return answer;
}

// Repacks a [out, in] bf16 or f32 weight into oneDNN's blocked layout for about `rows` rows (0: any).
at::Tensor* ll_linear_pack(const at::Tensor* weight, int64_t rows) {
  return guarded("mkldnn::_reorder_linear_weight", [&] {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                               .typed<Reorder>();
    return new at::Tensor(op.call(*weight, rows > 0 ? std::optional<int64_t>(rows) : std::nullopt));
  });
}

// x [rows, in] times a packed weight, then `activation` ("none", "swish", ...).
at::Tensor* ll_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                      const char* activation) {
  return guarded("mkldnn::_linear_pointwise", [&] {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                               .typed<Unary>();
    return new at::Tensor(op.call(*x, *weight, optional_tensor(bias), activation, Scalars(), std::nullopt));
  });
}

// x times a packed weight, then combined with `other` [rows, out] by `operation` ("add", "mul").
at::Tensor* ll_linear_binary(const at::Tensor* x, const at::Tensor* other, const at::Tensor* weight,
                             const char* operation) {
  return guarded("mkldnn::_linear_pointwise.binary", [&] {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("mkldnn::_linear_pointwise", "binary")
                               .typed<Binary>();
    return new at::Tensor(op.call(*x, *other, *weight, std::nullopt, operation));
  });
}

}  // extern "C"
