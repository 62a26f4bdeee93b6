// SPDX-License-Identifier: Apache-2.0
// Inner loops compiled once for each instruction set, and the choice among them at run time.
//
// An operator keeps its inner loops in <op>_simd.h, as plain loops that the compiler vectorises,
// and declares them in <op>.h:
//
//   EFFDET_DECLARE_SIMD(double focal_negatives(const FocalRun& run))
//
// simd_kernels.h names all <op>_simd.h; simd_{baseline,avx2,avx512}.cpp compile it. A kernel calls
// EFFDET_SIMD(focal_negatives)(run). The <op>_simd.h and what they include hold no function of the
// standard library or torch: the linker keeps one copy of an inline function, and that copy could
// be the one with instructions that the processor lacks.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EFFDET_X86 1
#endif

namespace effdet {

enum class InstructionSet { baseline, avx2, avx512 };

// The storage types that inner loops read and write; they compute in float32.
enum class FloatType { float32, bfloat16, float16 };

// The best one of this processor, or the lesser one that the environment variable
// EFFDET_INSTRUCTION_SET names.
InstructionSet instruction_set();
const char* instruction_set_name();

}  // namespace effdet

#ifdef EFFDET_X86
#define EFFDET_DECLARE_SIMD(declaration) \
  namespace baseline {                   \
  declaration;                           \
  }                                      \
  namespace avx2 {                       \
  declaration;                           \
  }                                      \
  namespace avx512 {                     \
  declaration;                           \
  }
#define EFFDET_SIMD(function)                                                         \
  (::effdet::instruction_set() == ::effdet::InstructionSet::avx512 ? avx512::function \
   : ::effdet::instruction_set() == ::effdet::InstructionSet::avx2 ? avx2::function   \
                                                                   : baseline::function)
#else
#define EFFDET_DECLARE_SIMD(declaration) \
  namespace baseline {                   \
  declaration;                           \
  }
#define EFFDET_SIMD(function) baseline::function
#endif
