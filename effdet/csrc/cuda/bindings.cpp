// SPDX-License-Identifier: Apache-2.0
// The Python module of the CUDA kernels. Importing it registers them.
#include <pybind11/pybind11.h>

// Read from the file's bytes as well, by effdet/ops/_extension.py, before the module is loaded:
// `used` keeps it in one piece.
__attribute__((used)) static const char kBuildRecord[] = EFFDET_BUILD_RECORD;

PYBIND11_MODULE(_C_cuda, module) { module.doc() = "CUDA kernels of the effdet operators"; }
