// See amx.h.
#include "amx.h"

#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace {

// arch_prctl of Linux 5.16: tiles are 8 KiB of state that a process has to ask for.
constexpr int kRequestState = 0x1023, kTileData = 18;

bool cpu_has_tiles() {
  unsigned a, b, c, d;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  return (d & kBf16) && (d & kTile) && (d & kInt8);
}

bool allowed_by_environment() {
  const char* name = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (name == nullptr) name = std::getenv("DNNL_MAX_CPU_ISA");
  if (name == nullptr || *name == 0) return true;
  return strcasecmp(name, "ALL") == 0 || strcasecmp(name, "DEFAULT") == 0 || strcasestr(name, "AMX") != nullptr;
}

thread_local bool without = false;

}  // namespace

bool amx_usable() {
  static const bool usable =
      HAS_AMX_BF16 && cpu_has_tiles() && allowed_by_environment() && syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
  return usable && !without;
}

extern "C" {

int ll_amx_usable() { return amx_usable(); }

// For tests: this thread's calls take no tiles while `off`. Gives what held before.
int ll_without_tiles(int off) { return std::exchange(without, off != 0); }

}  // extern "C"
