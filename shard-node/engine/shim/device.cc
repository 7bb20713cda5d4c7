// A GPU from the thread that computes on it: its stream, its memory, and copies over the border.
//
// Linked against libtorch's CPU half only. Everything here goes through the tables that the CUDA half fills
// when it is opened (device guards and allocators by device type), so no symbol of it is named; without it
// each call is an error that says so. Device -1 is the CPU, where a copy is a copy and nothing is page-locked.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "guarded.h"

namespace {

c10::Device device_of(int index) {
  return index < 0 ? c10::Device(c10::DeviceType::CPU)
                   : c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
}

c10::impl::VirtualGuardImpl guard_of(c10::Device device) { return c10::impl::VirtualGuardImpl(device.type()); }

// A new host tensor of the shape and type of `like`, page-locked where `device` is a GPU. The host allocator
// keeps a block until the copies that were queued from or to it are done, so it may be dropped at once.
at::Tensor host_buffer(const at::Tensor& like, c10::Device device) {
  return at::empty(like.sizes(), like.options().device(at::kCPU).pinned_memory(!device.is_cpu()));
}

void synchronise(c10::Device device) {
  if (device.is_cpu()) return;
  const auto guard = guard_of(device);
  guard.synchronizeStream(guard.getStream(device));
}

int succeeded(const char* what, const std::function<void()>& f) {
  static char done;
  return guarded(what, [&]() -> void* { return f(), &done; }) == nullptr ? -1 : 0;
}

}  // namespace

extern "C" {

// Makes `index` this thread's GPU and gives the thread a stream of its own, once: two stages of one process do
// not wait for each other, and a graph can be captured on it, which the default stream forbids.
int ll_device_enter(int index) {
  return succeeded("device", [&] {
    const auto device = device_of(index);
    at::globalContext().lazyInitDevice(device.type());
    const auto guard = guard_of(device);
    guard.setDevice(device);
    if (guard.getStream(device) == guard.getDefaultStream(device)) guard.exchangeStream(guard.getNewStream(device));
  });
}

// out = free and total bytes of the device, then bytes that tensors of this process hold now and at most.
int ll_device_memory(int index, uint64_t* out) {
  return succeeded("device memory", [&] {
    const auto device = device_of(index);
    auto* allocator = c10::getDeviceAllocator(device.type());
    const auto [free, total] = allocator->getMemoryInfo(device.index());
    const auto stats = allocator->getDeviceStats(device.index());
    const auto& held = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    out[0] = free;
    out[1] = total;
    out[2] = static_cast<uint64_t>(held.current);
    out[3] = static_cast<uint64_t>(held.peak);
  });
}

// Waits until everything queued on this thread's stream is done.
int ll_device_synchronise(int index) {
  return succeeded("synchronise", [&] { synchronise(device_of(index)); });
}

// A copy of a host tensor on the device. Returns when the copy is queued; `host` may be freed or changed then.
at::Tensor* ll_to_device(const at::Tensor* host, int index) {
  return guarded("copy to the device", [&] {
    const auto device = device_of(index);
    auto staged = host_buffer(*host, device);
    staged.copy_(*host);
    return new at::Tensor(device.is_cpu() ? staged : staged.to(device, /*non_blocking=*/true));
  });
}

// A dense copy of a device tensor on the host. Waits for it, and with it for the whole step.
at::Tensor* ll_to_host(const at::Tensor* tensor) {
  return guarded("copy to the host", [&] {
    const auto device = tensor->device();
    auto host = host_buffer(*tensor, device);
    host.copy_(*tensor, /*non_blocking=*/true);
    synchronise(device);
    return new at::Tensor(host);
  });
}

}  // extern "C"
