# SPDX-License-Identifier: Apache-2.0
"""The scaling of kept gradients: what equal, odd and zero scales do to every dtype and layout."""

import pytest
import torch
from torch import Tensor

from effdet.ops.rescale import reference

OP = torch.ops.effdet.rescale_.default
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def gradients(dtype: torch.dtype) -> list[Tensor]:
    """Contiguous, channels-last, empty, and longer than what one task takes."""
    torch.manual_seed(0)
    shapes = ((2, 6, 3, 5), (2, 6, 3, 5), (0, 6, 1, 1), (1, 40_001, 1, 1))
    made = [torch.randn(shape).to(dtype) for shape in shapes]
    made[1] = made[1].contiguous(memory_format=torch.channels_last)
    return made


def scalars(dtype: torch.dtype, *values: float) -> list[Tensor]:
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return [torch.tensor(value, dtype=kind) for value in values]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", [0.0, 0.37, -2.0, 1e30, torch.inf, torch.nan])
def test_kernel_equals_reference(dtype: torch.dtype, wanted: float) -> None:
    found, expected = gradients(dtype), gradients(dtype)
    pointers = [x.data_ptr() for x in found]
    OP(found, *scalars(dtype, wanted, 4.0))
    reference(expected, *scalars(dtype, wanted, 4.0))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert [x.data_ptr() for x in found] == pointers


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_equal_scales_change_nothing(function, scale: float) -> None:
    found = gradients(torch.float32)
    function(found, *scalars(torch.float32, scale, scale))
    assert all(torch.equal(x, y) for x, y in zip(found, gradients(torch.float32), strict=True))


def test_what_cannot_be_scaled_in_place_is_refused() -> None:
    with pytest.raises(RuntimeError, match="dense"):
        OP([torch.ones(4, 4)[:, ::2]], *scalars(torch.float32, 2.0, 1.0))
    with pytest.raises(RuntimeError, match="one float32 or float64"):
        OP([torch.ones(4)], torch.ones(2), torch.ones(()))
