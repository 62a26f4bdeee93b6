// SPDX-License-Identifier: Apache-2.0
#include "simd.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace effdet {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

// All that the pragmas in simd_avx2.cpp and simd_avx512.cpp ask for: a virtual machine may hide
// any.
InstructionSet best() {
#ifdef EFFDET_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2 && avx512) return InstructionSet::avx512;
  if (avx2) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

InstructionSet choose() {
  const InstructionSet found = best();
  const char* wish = std::getenv("EFFDET_INSTRUCTION_SET");
  if (!wish || !*wish) return found;
  for (int i = 0; i <= static_cast<int>(found); ++i)
    if (std::strcmp(wish, kNames[i]) == 0) return static_cast<InstructionSet>(i);
  std::fprintf(stderr,
               "effdet: EFFDET_INSTRUCTION_SET must be baseline, avx2 or avx512, and no more than "
               "this processor has (%s), got \"%s\"; %s is used\n",
               kNames[static_cast<int>(found)], wish, kNames[static_cast<int>(found)]);
  return found;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* instruction_set_name() { return kNames[static_cast<int>(instruction_set())]; }

}  // namespace effdet
