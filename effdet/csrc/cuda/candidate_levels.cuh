// SPDX-License-Identifier: Apache-2.0
// The table of the levels from which candidates are taken, and the reading of their logits.
#pragma once
#include "levels.cuh"

namespace effdet {

constexpr int kSelectThreads = 256;
constexpr int kVectorsPerThread = 4;
constexpr uint32_t kVectorsPerTile = kSelectThreads * kVectorsPerThread;

// A level [B, anchors * K, H, W] of logits, whose `size` is the pairs of an image, and its deltas
// [B, anchors * 4, H, W], both at multiples of 16 bytes.
struct CandidateLevel : LevelShape {
  const void* logits;
  const void* deltas;
  Layout logits_layout, deltas_layout;
  uint32_t first_pair;  // flat index of the level's first pair
  uint32_t first_tile;  // number of the level's first tile, in an image
};

struct CandidateLevels {
  CandidateLevel level[kMaxLevels];
  int count = 0;
  uint32_t num_classes = 0;
  uint32_t num_tiles = 0;  // of an image
  uint64_t num_pairs = 0;  // of an image, below 2^32
};

// Adds the next level; empty levels are left out.
template <typename scalar_t>
void add_candidate_level(CandidateLevels& all, const void* logits, Layout logits_layout,
                         const void* deltas, Layout deltas_layout, uint32_t positions,
                         uint32_t anchors) {
  constexpr uint32_t kLogitsPerTile = kVectorsPerTile * Storage<scalar_t>::kVector;
  const uint32_t size = positions * anchors * all.num_classes;
  if (size == 0) return;
  const int64_t first_anchor = static_cast<int64_t>(all.num_pairs / all.num_classes);
  all.level[all.count++] = {
      {first_anchor, size, positions, anchors}, logits,       deltas, logits_layout, deltas_layout,
      static_cast<uint32_t>(all.num_pairs),     all.num_tiles};
  all.num_tiles += (size - 1) / kLogitsPerTile + 1;
  all.num_pairs += size;
}

// Calls visit(x, position in the image's memory) for the logits of one tile that are at least
// `floor`, which NaN is not.
template <typename scalar_t, typename Visit>
__device__ void visit_tile(const CandidateLevel& level, uint32_t image, uint32_t tile, float floor,
                           const Visit& visit) {
  constexpr uint32_t kVector = Storage<scalar_t>::kVector;
  const scalar_t* logits =
      static_cast<const scalar_t*>(level.logits) + static_cast<size_t>(image) * level.size;
  const auto [head, num_vectors] = vectors_of_image<kVector>(image, level.size);
  const uint4* vectors = reinterpret_cast<const uint4*>(logits + head);
  const uint32_t first = tile * kVectorsPerTile + threadIdx.x;

  uint4 loaded[kVectorsPerThread];
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    const uint32_t vector = first + i * kSelectThreads;
    if (vector < num_vectors) loaded[i] = __ldg(vectors + vector);
  }
  uint32_t hits = 0;  // a bit a logit
  static_assert(kVectorsPerThread * kVector <= 32, "bits");
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kSelectThreads >= num_vectors) continue;
    float values[kVector];
    Storage<scalar_t>::unpack(loaded[i], values);
#pragma unroll
    for (uint32_t j = 0; j < kVector; ++j) {
      if (values[j] >= floor) hits |= 1u << (i * kVector + j);
    }
  }
  for (; hits; hits &= hits - 1) {
    const uint32_t bit = __ffs(hits) - 1;
    const uint32_t vector = first + bit / kVector * kSelectThreads;
    const uint32_t position = head + vector * kVector + bit % kVector;
    visit(Storage<scalar_t>::load(logits + position), position);
  }
  // What lies before and behind the vectors goes with the first tile.
  const uint32_t behind = head + num_vectors * kVector;
  if (tile > 0 || threadIdx.x >= head + (level.size - behind)) return;
  const uint32_t position = threadIdx.x < head ? threadIdx.x : behind + (threadIdx.x - head);
  const float x = Storage<scalar_t>::load(logits + position);
  if (x >= floor) visit(x, position);
}

// Where a pair stands, from the position of its logit in the image's memory.
struct Pair {
  uint32_t flat;  // anchor * K + class
  uint32_t label;
};

__device__ inline Pair pair_at(const CandidateLevel& level, uint32_t position,
                               uint32_t num_classes) {
  if (level.logits_layout == Layout::channels_last) {
    return {level.first_pair + position, position % num_classes};
  }
  const uint32_t channels = level.anchors * num_classes;
  const uint32_t channel = position / level.positions, location = position % level.positions;
  return {level.first_pair + location * channels + channel, channel % num_classes};
}

}  // namespace effdet
