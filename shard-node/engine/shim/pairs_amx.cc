// bf16 linears by AMX, for any number of rows, on the weights as pairs.cc packs them: 32 inputs of a block are a tile.
// One row takes tiles too: a step waits for its weights, and a tile of them is loaded in a few cycles. No prefetches:
// the CPU follows the four streams by itself, and a prefetch to the nearest cache halves what it reads.
//
// Every output is one chain of sums over steps of 32 inputs in order, whatever the number of rows and wherever the
// work is split, so that a row's bits depend on that row alone. They differ from those of pairs.cc: a tile sums the
// even and the odd inputs of a step apart.
#include <algorithm>
#include <vector>

#include "amx.h"
#include "pairs.h"
#include "team.h"

#if HAS_AMX_BF16

namespace {

constexpr int64_t kTileRows = 16, kStep = 32;  // rows and inputs of a tile of x
constexpr int64_t kBlockStep = kStep * kBlock;  // values of a tile of weights

// Inputs that go through all rows before the next ones: of 32 outputs 16 KiB, which stay in the first level cache
// beside two tiles of rows.
constexpr int64_t kPartSteps = 8;
// Blocks that few rows go through at once: the weights are read as so many streams.
constexpr int64_t kFewBlocks = 4;
// Rows of a chunk of many: their sums, 128 bytes a row, stay in the second level cache.
constexpr int64_t kManyRows = 512;

// Rows of x as tiles: [tiles][steps][rows of the tile][32], inputs padded with zeros.
struct Rows {
  const uint16_t* values;
  int64_t count, steps;

  int64_t tiles() const { return (count + kTileRows - 1) / kTileRows; }
  int tile_rows(int64_t tile) const { return static_cast<int>(std::min(kTileRows, count - tile * kTileRows)); }
  const uint16_t* at(int64_t tile, int64_t step) const {
    return values + tile * kTileRows * steps * kStep + step * tile_rows(tile) * kStep;
  }
};

AMX_CPU void deal(const PairsJob& job, const Rows& rows, int64_t tile) {
  auto* to = const_cast<uint16_t*>(rows.at(tile, 0));
  const int count = rows.tile_rows(tile);
  for (int r = 0; r < count; ++r) {
    const uint16_t* from = job.x + (tile * kTileRows + r) * job.width;
    uint16_t* at = to + r * kStep;
    int64_t i = 0;
    for (; i + kStep <= job.width; i += kStep, at += count * kStep)
      _mm512_storeu_si512(at, _mm512_loadu_si512(from + i));
    if (i < job.width) {
      const __mmask32 mask = (1u << (job.width - i)) - 1;
      _mm512_storeu_si512(at, _mm512_maskz_loadu_epi16(mask, from + i));
    }
  }
}

// Tiles 0..3 are sums, 4 and 5 rows, 6 and 7 weights. Of two tiles of rows, sums 0 and 1 are the first's.
AMX_CPU INLINE void shape_tiles(int rows, int second_rows) {
  TileShapes shapes;
  const bool two = second_rows > 0;
  for (int tile = 0; tile < 4; ++tile) shapes.shape(tile, two && tile >= 2 ? second_rows : rows, 64);
  shapes.shape(4, rows, 64);
  shapes.shape(5, two ? second_rows : rows, 64);
  shapes.shape(6, 16, 64);
  shapes.shape(7, 16, 64);
  asm volatile("" ::: "memory");  // GCC 12 believes that ldtilecfg reads 8 bytes of it
  _tile_loadconfig(&shapes);
}

// What one visit of the tiles multiplies.
struct Visit {
  const uint16_t* rows[2];
  int64_t row_stride[2];  // values from step to step
  const uint16_t* weight;
  int64_t block_stride;
};

AMX_CPU INLINE void two_by_two(const Visit& v, int64_t steps) {
  const uint16_t *a = v.rows[0], *b = v.rows[1], *w = v.weight;
  for (int64_t s = 0; s < steps; ++s, a += v.row_stride[0], b += v.row_stride[1], w += kBlockStep) {
    _tile_loadd(6, w, 64);
    _tile_loadd(4, a, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + v.block_stride, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, b, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

template <int kBlocks>
AMX_CPU INLINE void one_by(const Visit& v, int64_t steps) {
  const uint16_t *a = v.rows[0], *w = v.weight;
  for (int64_t s = 0; s < steps; ++s, a += v.row_stride[0], w += kBlockStep) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (kBlocks > 1) {
      _tile_loadd(7, w + v.block_stride, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (kBlocks > 2) {
      _tile_loadd(6, w + 2 * v.block_stride, 64);
      _tile_dpbf16ps(2, 4, 6);
    }
    if (kBlocks > 3) {
      _tile_loadd(7, w + 3 * v.block_stride, 64);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
}

// The last inputs, fewer than a step, of so many blocks, padded with zeros.
AMX_CPU void pad(const PairsJob& job, int64_t block, int blocks, uint16_t* to) {
  const int64_t from = job.width / kStep * kStep, values = (job.width - from) * kBlock;
  std::fill_n(to, blocks * kBlockStep, 0);
  for (int b = 0; b < blocks; ++b)
    std::copy_n(job.weight + ((block + b) * job.width + from) * kBlock, values, to + b * kBlockStep);
}

AMX_CPU INLINE void finish_rows(const PairsJob& job, const float* sums, int64_t row, int rows, int64_t block) {
  for (int r = 0; r < rows; ++r) finish(job, row + r, block * kBlock, _mm512_load_ps(sums + r * 16));
}

// GCC's intrinsics take the number of a tile as a literal only.
#define FINISH_TILE(TILE, JOB, ROW, ROWS, BLOCK) \
  do {                                           \
    alignas(64) float sums[kTileRows * 16];      \
    _tile_stored(TILE, sums, 64);                \
    finish_rows(JOB, sums, ROW, ROWS, BLOCK);    \
  } while (false)

AMX_CPU INLINE void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// One tile of rows, all inputs at once.
template <int kBlocks>
AMX_CPU INLINE void few(const PairsJob& job, const Rows& rows, int64_t block) {
  const int count = rows.tile_rows(0);
  Visit v{{rows.at(0, 0), nullptr}, {count * kStep, 0}, job.weight + block * kBlock * job.width, kBlock * job.width};
  const int64_t steps = job.width / kStep;
  zero_tiles();
  one_by<kBlocks>(v, steps);
  if (steps < rows.steps) {
    alignas(64) uint16_t last[kBlocks * kBlockStep];
    pad(job, block, kBlocks, last);
    one_by<kBlocks>({{rows.at(0, steps), nullptr}, {0, 0}, last, kBlockStep}, 1);
  }
  FINISH_TILE(0, job, 0, count, block);
  if (kBlocks > 1) FINISH_TILE(1, job, 0, count, block + 1);
  if (kBlocks > 2) FINISH_TILE(2, job, 0, count, block + 2);
  if (kBlocks > 3) FINISH_TILE(3, job, 0, count, block + 3);
}

AMX_CPU void few_chunk(const PairsJob& job, const Rows& rows, int64_t block, int64_t end) {
  shape_tiles(rows.tile_rows(0), 0);
  for (; block + kFewBlocks <= end; block += kFewBlocks) few<kFewBlocks>(job, rows, block);
  for (; block < end; ++block) few<1>(job, rows, block);
  _tile_release();
}

// Two tiles of rows (one, if `second_rows` is 0) and two blocks, with one part of the inputs; `kept` holds the four
// tiles of sums between parts.
AMX_CPU INLINE void part(const PairsJob& job, const Rows& rows, int64_t tile, int second_rows, int64_t block,
                         int64_t from, int64_t to, float* kept, const uint16_t* last) {
  if (from == 0) {
    zero_tiles();
  } else {
    _tile_loadd(0, kept, 64);
    _tile_loadd(1, kept + 256, 64);
    _tile_loadd(2, kept + 512, 64);
    _tile_loadd(3, kept + 768, 64);
  }
  const int count = rows.tile_rows(tile);
  const int64_t second = second_rows > 0 ? tile + 1 : tile;
  const int64_t whole = std::min(to, job.width / kStep);
  Visit v{{rows.at(tile, from), rows.at(second, from)},
          {count * kStep, rows.tile_rows(second) * kStep},
          job.weight + block * kBlock * job.width + from * kBlockStep,
          kBlock * job.width};
  if (second_rows > 0)
    two_by_two(v, whole - from);
  else
    one_by<2>(v, whole - from);
  if (whole < to) {
    Visit end{{rows.at(tile, whole), rows.at(second, whole)}, {0, 0}, last, kBlockStep};
    if (second_rows > 0)
      two_by_two(end, 1);
    else
      one_by<2>(end, 1);
  }
  if (to < rows.steps) {
    _tile_stored(0, kept, 64);
    _tile_stored(1, kept + 256, 64);
    _tile_stored(2, kept + 512, 64);
    _tile_stored(3, kept + 768, 64);
    return;
  }
  FINISH_TILE(0, job, tile * kTileRows, count, block);
  FINISH_TILE(1, job, tile * kTileRows, count, block + 1);
  if (second_rows > 0) {
    FINISH_TILE(2, job, second * kTileRows, second_rows, block);
    FINISH_TILE(3, job, second * kTileRows, second_rows, block + 1);
  }
}

// Two blocks for the tiles of rows from..to.
AMX_CPU void many_chunk(const PairsJob& job, const Rows& rows, int64_t from, int64_t to, int64_t block) {
  thread_local std::vector<float> kept;  // bounded by kManyRows
  const int64_t pairs = (to - from + 1) / 2;
  kept.resize(pairs * 1024);
  alignas(64) uint16_t last[2 * kBlockStep];
  if (job.width % kStep != 0) pad(job, block, 2, last);
  int shaped = 0;
  for (int64_t step = 0; step < rows.steps; step += kPartSteps) {
    const int64_t end = std::min(step + kPartSteps, rows.steps);
    float* sums = kept.data();
    for (int64_t tile = from; tile < to; tile += 2, sums += 1024) {
      const int first_rows = rows.tile_rows(tile), second_rows = tile + 1 < to ? rows.tile_rows(tile + 1) : 0;
      const int shape = first_rows * 32 + second_rows;
      if (shape != shaped) shape_tiles(first_rows, second_rows);
      shaped = shape;
      part(job, rows, tile, second_rows, block, step, end, sums, last);
    }
  }
  _tile_release();
}

// The last block of an odd number of them.
AMX_CPU void odd_block(const PairsJob& job, const Rows& rows, int64_t from, int64_t to, int64_t block) {
  for (int64_t tile = from; tile < to; ++tile) {
    const int count = rows.tile_rows(tile);
    shape_tiles(count, 0);
    zero_tiles();
    const int64_t steps = job.width / kStep;
    one_by<1>({{rows.at(tile, 0), nullptr}, {count * kStep, 0}, job.weight + block * kBlock * job.width, 0}, steps);
    if (steps < rows.steps) {
      alignas(64) uint16_t last[kBlockStep];
      pad(job, block, 1, last);
      one_by<1>({{rows.at(tile, steps), nullptr}, {0, 0}, last, 0}, 1);
    }
    FINISH_TILE(0, job, tile * kTileRows, count, block);
  }
  _tile_release();
}

}  // namespace

void pairs_by_tiles(const PairsJob& job) {
  thread_local std::vector<uint16_t> dealt;  // one step's rows: grows to the largest, then stays
  const int64_t steps = (job.width + kStep - 1) / kStep;
  if (dealt.size() < static_cast<size_t>(job.rows * steps * kStep)) dealt.resize(job.rows * steps * kStep);
  const Rows rows{dealt.data(), job.rows, steps};
  const int64_t tiles = rows.tiles(), blocks = (job.outputs + kBlock - 1) / kBlock;
  if (tiles == 1) {
    deal(job, rows, 0);
    // Chunks of about 128 KiB: some ten microseconds, so that no thread waits long for another.
    const int64_t group = std::max<int64_t>((128 << 10) / (kBlock * job.width * 2) / 4 * 4, 4);
    in_team((blocks + group - 1) / group, [&](int64_t chunk) {
      few_chunk(job, rows, chunk * group, std::min((chunk + 1) * group, blocks));
    });
    return;
  }
  in_team(tiles, [&](int64_t tile) { deal(job, rows, tile); });
  constexpr int64_t kTiles = kManyRows / kTileRows;
  const int64_t groups = (blocks + 1) / 2, parts = (tiles + kTiles - 1) / kTiles;
  in_team(groups * parts, [&](int64_t chunk) {
    const int64_t from = chunk % parts * kTiles, to = std::min(from + kTiles, tiles), block = chunk / parts * 2;
    if (block + 1 < blocks)
      many_chunk(job, rows, from, to, block);
    else
      odd_block(job, rows, from, to, block);
  });
}

#else

void pairs_by_tiles(const PairsJob&) {}  // not called: amx_usable() is false

#endif
