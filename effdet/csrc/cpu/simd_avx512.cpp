// SPDX-License-Identifier: Apache-2.0
#include "simd.h"
#ifdef EFFDET_X86
#pragma GCC target( \
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#define EFFDET_ISA avx512
#define EFFDET_FMA 1
#include "simd_kernels.h"
#endif
