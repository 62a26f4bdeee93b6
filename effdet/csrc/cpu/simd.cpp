// SPDX-License-Identifier: Apache-2.0
#include "simd.h"

#include <cstdlib>
#include <cstring>

namespace effdet {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

InstructionSet best() {
#ifdef EFFDET_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

InstructionSet choose() {
  const InstructionSet found = best();
  const char* wish = std::getenv("EFFDET_INSTRUCTION_SET");
  for (int i = 0; wish && i < static_cast<int>(found); ++i)
    if (std::strcmp(wish, kNames[i]) == 0) return static_cast<InstructionSet>(i);
  return found;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* instruction_set_name() { return kNames[static_cast<int>(instruction_set())]; }

}  // namespace effdet
