// AMX of this process and thread: whether its tiles may be used, and how a thread shapes them.
#pragma once
#include <cstdint>

// A compiler that does not know AMX for bf16 (GCC before 11) makes programs without it.
#if __has_include(<amxbf16intrin.h>)
#define HAS_AMX_BF16 1
#else
#define HAS_AMX_BF16 0
#endif

#define AMX_CPU \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16,amx-int8")))

// The CPU has AMX for bf16 and int8, the system lets this process have tiles, and ONEDNN_MAX_CPU_ISA, which rules the
// library's kernels, does not name less. Asks the system once. ATEN_CPU_CAPABILITY is the caller's to obey, by
// ll_cpu_level(). Tests turn tiles off for their thread (ll_without_tiles), so ask on the thread that calls the shim.
bool amx_usable();

// The operand of ldtilecfg: palette 1, up to eight tiles.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void shape(int tile, int tile_rows, int tile_row_bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(tile_row_bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);
