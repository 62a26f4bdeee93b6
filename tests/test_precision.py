# SPDX-License-Identifier: Apache-2.0
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effdet import precision
from effdet.errors import UsageError
from effdet.precision import (
    autocast,
    autocast_dtype,
    build_scaler,
    cpu_has_bfloat16,
    set_tf32,
    slow_amp_warning,
)

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


@pytest.fixture
def _tf32_as_before() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.usefixtures("_tf32_as_before")
@pytest.mark.parametrize("enabled", [True, False])
def test_tf32_is_set_for_products_and_convolutions(enabled: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_tf32(enabled)
    assert torch.backends.cuda.matmul.allow_tf32 is enabled
    assert torch.backends.cudnn.allow_tf32 is enabled
    # What torch.compile asks for; with torch's newer setters it raises.
    assert torch.get_float32_matmul_precision() == ("high" if enabled else "highest")


def test_amp_is_warned_of_on_cpus_without_bfloat16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    warning = slow_amp_warning(CPU, torch.bfloat16)
    assert warning is not None
    assert "no instructions for it" in warning
    assert slow_amp_warning(CPU, None) is None
    assert slow_amp_warning(CUDA, torch.float16) is None
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert slow_amp_warning(CPU, torch.bfloat16) is None


@pytest.mark.parametrize(
    ("known", "has"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True),
     ({"avx2": True, "avx512_bf16": False}, False), ({"neon": True}, False)],
)  # fmt: skip
def test_bfloat16_instructions_are_those_of_x86_and_arm(
    known: dict[str, bool], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert cpu_has_bfloat16() is has


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_this_processor_says_the_same_as_linux() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    assert cpu_has_bfloat16() == any(w in words for w in ("avx512_bf16", "amx_bf16", "bf16"))
