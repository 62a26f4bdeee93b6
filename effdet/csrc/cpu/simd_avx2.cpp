// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define EFFDET_ISA avx2
#define EFFDET_FMA 1
#include "simd_kernels.h"
#endif
