# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.errors import UsageError
from effdet.precision import autocast, autocast_dtype, build_scaler

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "wanted", "dtype"),
    [
        (CPU, None, torch.bfloat16),
        (CUDA, None, torch.float16),
        (CPU, "bfloat16", torch.bfloat16),
        (CUDA, "bfloat16", torch.bfloat16),
        (CUDA, "float16", torch.float16),
    ],
)
def test_mixed_precision_has_the_type_that_fits_the_device(
    device: torch.device, wanted: str | None, dtype: torch.dtype
) -> None:
    assert autocast_dtype(device, True, wanted) == dtype


def test_without_amp_there_is_no_type() -> None:
    assert autocast_dtype(CUDA, False, "float16") is None
    assert autocast_dtype(CPU, False, None) is None


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="--amp-dtype float16 needs a GPU"):
        autocast_dtype(CPU, True, "float16")


def test_autocast_changes_the_type_of_convolutions_only_when_asked() -> None:
    layer, x = torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)
    with autocast(CPU, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with autocast(CPU, None):
        assert layer(x).dtype == torch.float32


def test_the_scaler_works_for_float16_only() -> None:
    assert not build_scaler(CPU, None).is_enabled()
    assert not build_scaler(CPU, torch.bfloat16).is_enabled()
    scaler = build_scaler(CPU, torch.float16)
    assert scaler.is_enabled()
    assert scaler.scale(torch.ones(1)).item() > 1
