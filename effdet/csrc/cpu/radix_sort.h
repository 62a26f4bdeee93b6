// SPDX-License-Identifier: Apache-2.0
// Sorting of 64-bit keys, several times faster than std::sort from a few hundred on.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace effdet {

// Largest first. One pass counts all bytes; bytes that are the same in all keys cost nothing more.
inline void sort_descending(std::vector<uint64_t>& keys) {
  constexpr int kBytes = 8, kValues = 256;
  if (std::is_sorted(keys.begin(), keys.end(), std::greater<>())) return;
  if (keys.size() < kValues) return std::sort(keys.begin(), keys.end(), std::greater<>());
  std::array<std::array<size_t, kValues>, kBytes> places{};
  for (const uint64_t key : keys)
    for (int byte = 0; byte < kBytes; ++byte) ++places[byte][key >> (8 * byte) & 0xff];
  std::vector<uint64_t> sorted(keys.size());
  for (int byte = 0; byte < kBytes; ++byte) {
    auto& place = places[byte];
    if (place[keys[0] >> (8 * byte) & 0xff] == keys.size()) continue;
    size_t next = 0;
    for (int value = kValues - 1; value >= 0; --value) {
      const size_t count = place[value];
      place[value] = next;
      next += count;
    }
    for (const uint64_t key : keys) sorted[place[key >> (8 * byte) & 0xff]++] = key;
    keys.swap(sorted);
  }
}

}  // namespace effdet
