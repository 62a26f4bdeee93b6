// SPDX-License-Identifier: Apache-2.0
// All levels of the heads' outputs in one launch: the table of levels, cut into tiles, a block
// each.
//
// No tile reaches over an image, so a block works with 32-bit indices from the start of its image.
// The tiles do not depend on the GPU, so neither do the partial sums that blocks leave.
#pragma once
#include "device.cuh"

namespace effdet {

constexpr int kMaxLevels = 8;

enum class Layout { channels_last, contiguous };

// One level [B, anchors * V, H, W] in memory.
struct Level {
  const void* values;
  void* gradients;       // as `values`; null: not wanted
  int64_t first_anchor;  // of the level, in a row of all A anchors
  unsigned size;         // values of an image, below 2^31
  unsigned positions;    // H * W
  unsigned anchors;      // at one position
  unsigned first_tile, tiles_per_image;
};

// Levels of one layout. Both ends of every image are in some tile.
struct Levels {
  Level level[kMaxLevels];
  int count = 0;
  unsigned num_tiles = 0;
  int64_t num_anchors = 0;  // A

  // Adds a level whose image is `work` units, in tiles of `per_tile`; empty levels are left out.
  void add(Level level, unsigned batch, unsigned work, unsigned per_tile) {
    if (level.size == 0 || batch == 0) return;
    level.first_tile = num_tiles;
    level.tiles_per_image = work / per_tile + (work % per_tile != 0 || work == 0);
    num_tiles += level.tiles_per_image * batch;
    this->level[count++] = level;
  }
};

// Where a block works.
template <typename scalar_t>
struct Tile {
  const scalar_t* values;  // of its image and level
  scalar_t* gradients;     // null: not wanted
  int64_t first_row;       // of the level's first anchor, in [B, A]
  unsigned image;
  unsigned number;  // of the tile in its image and level
  unsigned size, positions, anchors;
};

template <typename scalar_t>
__device__ __forceinline__ Tile<scalar_t> tile_of_block(const Levels& levels) {
  int i = 0;
  while (i + 1 < levels.count && blockIdx.x >= levels.level[i + 1].first_tile) ++i;
  const Level& level = levels.level[i];
  const unsigned tile = blockIdx.x - level.first_tile, image = tile / level.tiles_per_image;
  const int64_t offset = static_cast<int64_t>(image) * level.size;
  auto* gradients = static_cast<scalar_t*>(level.gradients);
  return {static_cast<const scalar_t*>(level.values) + offset,
          gradients ? gradients + offset : nullptr,
          image * levels.num_anchors + level.first_anchor,
          image,
          tile - image * level.tiles_per_image,
          level.size,
          level.positions,
          level.anchors};
}

}  // namespace effdet
