// SPDX-License-Identifier: Apache-2.0
// The heads' outputs: what a level is, and all levels of a loss in one launch, cut into tiles, a
// block each.
//
// No tile reaches over an image, so a block works with 32-bit indices from the start of its image.
// The tiles do not depend on the GPU, so neither do the partial sums that blocks leave.
#pragma once
#include "device.cuh"

namespace effdet {

constexpr int kMaxLevels = 8;

enum class Layout { channels_last, contiguous };

// One level [B, anchors * V, H, W], its images one after the other in memory.
struct LevelShape {
  int64_t first_anchor;  // of the level, in a row of all A anchors
  unsigned size;         // values of an image, below 2^31
  unsigned positions;    // H * W
  unsigned anchors;      // at one position
};

// The level that holds a number: the last one whose first number (`first`) is not above it. An
// empty level begins where the next one does, so the last that fits is the right one.
template <typename level_t, typename owner_t>
__device__ __forceinline__ const level_t& find_level(const level_t* levels, int count,
                                                     unsigned owner_t::* first, unsigned number) {
  int i = 0;
  while (i + 1 < count && number >= levels[i + 1].*first) ++i;
  return levels[i];
}

// The vectors of kVector values in an image of `size` values, of a level that starts at a vector:
// `head` values stand before them, and the rest behind.
struct ImageVectors {
  unsigned head, count;
};

template <unsigned kVector>
__device__ __forceinline__ ImageVectors vectors_of_image(unsigned image, unsigned size) {
  const unsigned head = min((0 - image * size) % kVector, size);
  return {head, (size - head) / kVector};
}

// --- the levels of a loss ---

struct LossLevel : LevelShape {
  const void* values;
  void* gradients;  // as `values`; null: not wanted
  unsigned first_tile, tiles_per_image;
};

// Levels of one layout. Both ends of every image are in some tile.
struct LossLevels {
  LossLevel level[kMaxLevels];
  int count = 0;
  unsigned num_tiles = 0;
  int64_t num_anchors = 0;  // A

  // Adds a level whose image is `work` units, in tiles of `per_tile`; empty levels are left out.
  void add(const LevelShape& shape, const void* values, void* gradients, unsigned batch,
           unsigned work, unsigned per_tile) {
    if (shape.size == 0 || batch == 0) return;
    const unsigned tiles_per_image = work / per_tile + (work % per_tile != 0 || work == 0);
    level[count++] = {shape, values, gradients, num_tiles, tiles_per_image};
    num_tiles += tiles_per_image * batch;
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
__device__ __forceinline__ Tile<scalar_t> tile_of_block(const LossLevels& levels) {
  const LossLevel& level =
      find_level(levels.level, levels.count, &LossLevel::first_tile, blockIdx.x);
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
