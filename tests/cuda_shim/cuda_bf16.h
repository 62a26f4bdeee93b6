// SPDX-License-Identifier: Apache-2.0
// The 16-bit types stand in cuda_runtime.h.
#pragma once
#include "cuda_runtime.h"
