// SPDX-License-Identifier: Apache-2.0
#define EFFDET_ISA baseline
#include "simd_kernels.h"
