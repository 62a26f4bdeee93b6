// SPDX-License-Identifier: Apache-2.0
// All inner loops, for the instruction set that the including file has chosen.
#pragma once
#include "assign_simd.h"
#include "ema_simd.h"
#include "focal_loss_simd.h"
#include "nms_simd.h"
#include "rescale_simd.h"
#include "select_candidates_simd.h"
