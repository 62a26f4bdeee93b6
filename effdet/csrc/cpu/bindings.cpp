// SPDX-License-Identifier: Apache-2.0
// The Python module of the CPU kernels. Importing it registers them; it holds nothing else.
#include <pybind11/pybind11.h>

#include "simd.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "CPU kernels of the effdet operators";
  // Read from the file's bytes as well, by effdet/ops/_extension.py, before the module is loaded.
  module.attr("build_record") = EFFDET_BUILD_RECORD;
  module.attr("instruction_set") = effdet::instruction_set_name();
}
