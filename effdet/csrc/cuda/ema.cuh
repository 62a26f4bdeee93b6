// SPDX-License-Identifier: Apache-2.0
// The moving average on CUDA: the table of a launch, and the kernel.
//
// Averages are divided into units of 16 bytes, numbered through all pairs of a launch; a thread
// takes four. The table travels as a kernel parameter, so nothing is copied to the device.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "../common/ema_pair.h"

namespace effdet {

constexpr int kEmaThreads = 256;
constexpr int kEmaUnitsPerThread = 4;
constexpr uint32_t kEmaChunk = kEmaThreads * kEmaUnitsPerThread;  // units of a block

// Pairs of a launch: what fits into the parameters of a kernel.
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 12010
constexpr int kEmaCapacity = 2300;  // of 32,764 bytes
#else
constexpr int kEmaCapacity = 270;  // of 4,096 bytes
#endif

// Averages that lie in one buffer are one region: the address of an average follows from its unit.
// Small gaps between them are part of it.
constexpr int kEmaRegions = 8;
constexpr int64_t kEmaMaxSlack = 4095;

template <int capacity>
struct EmaTable {
  const char* value[capacity];
  char* region[kEmaRegions];           // address of its first unit
  uint32_t region_first[kEmaRegions];  // number of its first unit
  uint32_t first[capacity + 1];        // first unit of each pair; the last entry ends the last pair
  uint16_t code[capacity];  // kind + 8 * slack: bytes of its units that are not the pair's
  int num_pairs;
  int num_regions;
};

// --- on the host ---

// The longest average that a table can hold.
constexpr int64_t kEmaMaxBytes = INT64_C(1) << 35;

// Divides pairs into as few tables as they need, at least one.
template <int capacity>
class EmaTables {
 public:
  using Table = EmaTable<capacity>;

  // The pairs stand by rising address of the average, and none of them is empty.
  EmaTables(const EmaPair* begin, const EmaPair* end) {
    open();
    for (const EmaPair* pair = begin; pair != end; ++pair) {
      if (!joins(*pair) && !opens_region(*pair)) {
        open();
        opens_region(*pair);
      }
      add(*pair);
    }
  }

  const std::vector<std::unique_ptr<Table>>& tables() const { return tables_; }

  static unsigned num_blocks(const Table& table) {
    const uint32_t units = table.first[table.num_pairs];
    return units == 0 ? 1 : (units - 1) / kEmaChunk + 1;
  }

 private:
  static constexpr int64_t kUnit = 16;

  static int64_t units(int64_t bytes) { return (bytes + kUnit - 1) / kUnit; }

  Table& table() { return *tables_.back(); }

  void open() {
    tables_.push_back(std::make_unique<Table>());
    table().num_pairs = table().num_regions = 0;
    table().first[0] = 0;
  }

  bool has_room(int64_t first_unit, const EmaPair& pair) {
    return table().num_pairs < capacity && first_unit + units(pair.bytes) < INT64_C(1) << 32;
  }

  // Whether the pair goes on in the last region; then its units begin there.
  bool joins(const EmaPair& pair) {
    if (table().num_pairs == 0) return false;
    const int last = table().num_pairs - 1, region = table().num_regions - 1;
    const int64_t distance = pair.average - table().region[region];
    const int64_t first_unit = table().region_first[region] + distance / kUnit;
    const int64_t slack = pair.average - end_;
    if (distance % kUnit != 0 || slack > kEmaMaxSlack || !has_room(first_unit, pair)) return false;
    table().first[last + 1] = static_cast<uint32_t>(first_unit);
    table().code[last] = static_cast<uint16_t>((table().code[last] & 7) | slack << 3);
    return true;
  }

  // Whether a new region could be opened for the pair.
  bool opens_region(const EmaPair& pair) {
    const uint32_t first_unit = table().first[table().num_pairs];
    if (table().num_regions == kEmaRegions || !has_room(first_unit, pair)) return false;
    table().region[table().num_regions] = pair.average;
    table().region_first[table().num_regions++] = first_unit;
    return true;
  }

  void add(const EmaPair& pair) {
    const int index = table().num_pairs++;
    const int64_t slack = units(pair.bytes) * kUnit - pair.bytes;
    table().value[index] = pair.value;
    table().code[index] = static_cast<uint16_t>(static_cast<int>(pair.kind) | slack << 3);
    table().first[index + 1] = table().first[index] + static_cast<uint32_t>(units(pair.bytes));
    end_ = pair.average + pair.bytes;
  }

  std::vector<std::unique_ptr<Table>> tables_;
  char* end_ = nullptr;  // of the last average
};

// --- on the device ---

// As torch.lerp: from the nearer end, so that a weight of 1 gives the value itself. Every operation
// is rounded, as on the CPU.
__device__ inline float ema_lerp(float average, float value, float weight) {
  const float difference = __fsub_rn(value, average);
  if (weight < 0.5f) return __fadd_rn(average, __fmul_rn(weight, difference));
  return __fsub_rn(value, __fmul_rn(1 - weight, difference));
}

__device__ inline double ema_lerp(double average, double value, double weight) {
  const double difference = __dadd_rn(value, -average);
  if (weight < 0.5) return __dadd_rn(average, __dmul_rn(weight, difference));
  return __dadd_rn(value, -__dmul_rn(1 - weight, difference));
}

__device__ inline float ema_float_of_bfloat16(unsigned short bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// One unit: where it lies, and how many of its bytes belong to the pair.
struct EmaUnit {
  EmaKind kind;
  char* average;
  const char* value;
  int bytes;
};

template <int capacity>
__device__ inline int ema_pair_of(const EmaTable<capacity>& table, uint32_t unit, int low,
                                  int high) {
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first[middle] <= unit)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

template <int capacity>
__device__ inline EmaUnit ema_unit(const EmaTable<capacity>& table, uint32_t unit, int pair) {
  int region = 0;
  while (region + 1 < table.num_regions && table.region_first[region + 1] <= unit) ++region;
  const int64_t index = unit - table.first[pair];
  const int64_t slack = table.code[pair] >> 3;
  const int64_t left = 16 * (int64_t(table.first[pair + 1]) - unit) - slack;
  EmaUnit result;
  result.kind = static_cast<EmaKind>(table.code[pair] & 7);
  result.average = table.region[region] + 16 * int64_t(unit - table.region_first[region]);
  const bool is_half = result.kind == EmaKind::float16 || result.kind == EmaKind::bfloat16;
  result.value = table.value[pair] + (is_half ? 8 : 16) * index;
  result.bytes = left < 0 ? 0 : left < 16 ? int(left) : 16;
  return result;
}

// Whether the unit is four float32 averages that can be moved in one access.
__device__ inline bool ema_is_vector(const EmaUnit& unit) {
  if (unit.bytes < 16 || unit.kind == EmaKind::float64 || unit.kind == EmaKind::copy) return false;
  const int value_alignment = unit.kind == EmaKind::float32 ? 15 : 7;
  return (reinterpret_cast<uintptr_t>(unit.average) & 15) == 0 &&
         (reinterpret_cast<uintptr_t>(unit.value) & value_alignment) == 0;
}

__device__ inline float4 ema_vector_of_value(const EmaUnit& unit) {
  if (unit.kind == EmaKind::float32) return *reinterpret_cast<const float4*>(unit.value);
  const ushort4 bits = *reinterpret_cast<const ushort4*>(unit.value);
  if (unit.kind == EmaKind::float16) {
    return make_float4(
        __half2float(__ushort_as_half(bits.x)), __half2float(__ushort_as_half(bits.y)),
        __half2float(__ushort_as_half(bits.z)), __half2float(__ushort_as_half(bits.w)));
  }
  return make_float4(ema_float_of_bfloat16(bits.x), ema_float_of_bfloat16(bits.y),
                     ema_float_of_bfloat16(bits.z), ema_float_of_bfloat16(bits.w));
}

// A unit element by element: ends of averages, float64, integers, odd addresses.
__device__ inline void ema_move_elements(const EmaUnit& unit, double weight) {
  auto* floats = reinterpret_cast<float*>(unit.average);
  auto* doubles = reinterpret_cast<double*>(unit.average);
  const float w = static_cast<float>(weight);
  switch (unit.kind) {
    case EmaKind::float32:
      for (int i = 0; i < unit.bytes / 4; ++i)
        floats[i] = ema_lerp(floats[i], reinterpret_cast<const float*>(unit.value)[i], w);
      return;
    case EmaKind::float16:
      for (int i = 0; i < unit.bytes / 4; ++i)
        floats[i] =
            ema_lerp(floats[i], __half2float(reinterpret_cast<const __half*>(unit.value)[i]), w);
      return;
    case EmaKind::bfloat16:
      for (int i = 0; i < unit.bytes / 4; ++i)
        floats[i] = ema_lerp(
            floats[i],
            ema_float_of_bfloat16(reinterpret_cast<const unsigned short*>(unit.value)[i]), w);
      return;
    case EmaKind::float64:
      for (int i = 0; i < unit.bytes / 8; ++i)
        doubles[i] = ema_lerp(doubles[i], reinterpret_cast<const double*>(unit.value)[i], weight);
      return;
    case EmaKind::copy:
      for (int i = 0; i < unit.bytes; ++i) unit.average[i] = unit.value[i];
  }
}

// The launch with `counts`, the last one of an update, counts the update: in the last block to
// finish, when all have read the count. updates[1] tells it which one that is, and is 0 again then.
template <int capacity>
__global__ void __launch_bounds__(kEmaThreads)
    ema_update(const __grid_constant__ EmaTable<capacity> table, unsigned long long* updates,
               const float* found_inf, double decay, bool counts) {
  if (found_inf && *found_inf != 0) return;
  const auto done = static_cast<long long>(updates[0]);
  const double weight = max(1 - decay, 9 / (10 + static_cast<double>(done < 0 ? 0 : done)));
  const uint32_t end = table.first[table.num_pairs];
  const uint32_t begin = blockIdx.x * kEmaChunk;
  if (begin < end) {
    const uint32_t last = end - begin < kEmaChunk ? end - 1 : begin + kEmaChunk - 1;
    const int low = ema_pair_of(table, begin, 0, table.num_pairs - 1);
    const int high = ema_pair_of(table, last, low, table.num_pairs - 1);
    EmaUnit units[kEmaUnitsPerThread] = {};  // without bytes, where the table has ended
    float4 averages[kEmaUnitsPerThread], values[kEmaUnitsPerThread];
    // All reads first, so that they wait for memory together.
#pragma unroll
    for (int k = 0; k < kEmaUnitsPerThread; ++k) {
      const uint32_t unit = begin + k * kEmaThreads + threadIdx.x;
      if (unit < begin || unit > last) continue;  // the first where the sum is beyond 32 bits
      units[k] = ema_unit(table, unit, ema_pair_of(table, unit, low, high));
      if (!ema_is_vector(units[k])) continue;
      averages[k] = __ldcs(reinterpret_cast<const float4*>(units[k].average));
      values[k] = ema_vector_of_value(units[k]);
    }
#pragma unroll
    for (int k = 0; k < kEmaUnitsPerThread; ++k) {
      if (!ema_is_vector(units[k])) {
        ema_move_elements(units[k], weight);
        continue;
      }
      const float w = static_cast<float>(weight);
      const float4 a = averages[k], v = values[k];
      __stcs(reinterpret_cast<float4*>(units[k].average),
             make_float4(ema_lerp(a.x, v.x, w), ema_lerp(a.y, v.y, w), ema_lerp(a.z, v.z, w),
                         ema_lerp(a.w, v.w, w)));
    }
  }
  if (!counts) return;
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(updates + 1, 1ull) + 1 < gridDim.x) return;
  updates[1] = 0;
  updates[0] += 1;
}

// All launches of an update.
template <int capacity, typename Launch>
void launch_ema_update(const Launch& launch, const EmaTables<capacity>& tables,
                       unsigned long long* updates, const float* found_inf, double decay) {
  for (const auto& table : tables.tables()) {
    const bool counts = table == tables.tables().back();
    launch(tables.num_blocks(*table), kEmaThreads, 0, ema_update<capacity>, *table, updates,
           found_inf, decay, counts);
  }
}

}  // namespace effdet
