// SPDX-License-Identifier: Apache-2.0
#include "simd.h"
#ifdef EFFDET_X86
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define EFFDET_ISA avx2
#define EFFDET_FMA 1
#include "simd_kernels.h"
#endif
