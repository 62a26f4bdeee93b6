# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of rescale_, run on the CPU, against plain PyTorch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from effdet.levels import DTYPES
from tests.cuda_shim import Library, addresses, build

SOURCE = r"""
#include "launcher.h"
#include "rescale.cuh"

using namespace effdet;

template <typename scalar_t>
void run(void** values, const int* sizes, int count, const void* grad_output,
         const void* grad_scale) {
  using compute_t = typename Storage<scalar_t>::compute_t;
  RescaleArguments<compute_t> r;
  for (int i = 0; i < count; ++i) add_rescale_tensor(r, values[i], sizes[i]);
  r.grad_output = static_cast<const compute_t*>(grad_output);
  r.grad_scale = static_cast<const compute_t*>(grad_scale);
  launch_rescale<scalar_t>(cuda_shim::Launcher{}, r);
}

extern "C" {
#define EFFDET_TEST(name, type)                                                            \
  void rescale_##name(void** values, const int* sizes, int count, const void* grad_output, \
                      const void* grad_scale) {                                            \
    run<type>(values, sizes, count, grad_output, grad_scale);                              \
  }
EFFDET_TEST(float16, __half)
EFFDET_TEST(bfloat16, __nv_bfloat16)
EFFDET_TEST(float32, float)
EFFDET_TEST(float64, double)
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(SOURCE, tmp_path_factory.mktemp("rescale"))


def rescale(
    kernels: Library, tensors: Sequence[Tensor], grad_output: float, grad_scale: float
) -> None:
    """Multiply the tensors by the ratio, in place."""
    exact = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    kernels.call(
        f"rescale_{str(tensors[0].dtype).removeprefix('torch.')}",
        addresses(tensors),
        torch.tensor([x.numel() for x in tensors], dtype=torch.int32),
        len(tensors),
        torch.tensor(grad_output, dtype=exact),
        torch.tensor(grad_scale, dtype=exact),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_multiplied_in_float32_or_better(
    kernels: Library, dtype: torch.dtype
) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    memory = [torch.randn(n, generator=generator).to(dtype) for n in (9000, 8, 0, 1, 77)]
    tensors = [*memory[:4], memory[4][1:]]  # the last one is not aligned
    before = [x.clone() for x in tensors]
    for output, factor in ((8.0, 1.0), (6.0, 0.75)):
        rescale(kernels, tensors, output, 8.0)
        for x, old in zip(tensors, before, strict=True):
            assert torch.equal(x, (old.to(exact) * factor).to(dtype))


@pytest.mark.parametrize("scale", [0.0, 1.0, 65536.0, float("inf")])
def test_nothing_changes_where_the_scale_is_the_foreseen_one(
    kernels: Library, scale: float
) -> None:
    """Also where it is 0: the ratio would be 0 / 0."""
    gradient = torch.tensor([0.0, -0.0, 1.0, torch.inf])
    rescale(kernels, [gradient], scale, scale)
    assert gradient.tolist() == [0.0, 0.0, 1.0, torch.inf]
    assert gradient.signbit().tolist() == [False, True, False, False]


@pytest.mark.parametrize(("output", "scale"), [(1.0, 0.0), (float("nan"), 1.0)])
def test_what_cannot_be_rescaled_is_not_finite(
    kernels: Library, output: float, scale: float
) -> None:
    gradient = torch.tensor([0.0, 2.0])
    rescale(kernels, [gradient], output, scale)
    assert not gradient.isfinite().any()


def test_no_gradients(kernels: Library) -> None:
    rescale(kernels, [torch.empty(0)], 2.0, 1.0)
