// SPDX-License-Identifier: Apache-2.0
// Numbers that the kernels share with Python.
#pragma once
#include <cstdint>

namespace effdet {

// Class targets of anchors that have no class: effdet/structures.py.
constexpr int32_t kBackground = -1;
constexpr int32_t kIgnore = -2;

// Sides of boxes and anchors count as at least this when boxes are encoded: effdet/boxes.py.
constexpr float kMinSize = 1e-8f;

// tw and th are cut here, score of a place without a candidate: effdet/ops/select_candidates.py.
constexpr float kMaxLogRatio = 30.f;
constexpr float kRemoved = -1.f;

// Joined averages begin at multiples of so many bytes: ALIGNMENT of effdet/ops/ema.py.
constexpr int64_t kEmaAlignment = 64;

}  // namespace effdet
