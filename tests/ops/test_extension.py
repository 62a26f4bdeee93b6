# SPDX-License-Identifier: Apache-2.0
"""Loading the compiled kernels: what is said when they are missing or do not fit."""

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from effdet.ops import _extension, build_info

RECORD = "effdet-build torch={torch} min_torch={minimum} cuda={cuda} architectures={arch} end"


def module_file(
    folder: Path,
    torch_version: str = "2.99.0",
    minimum: str = "2.11",
    cuda: str = "none",
    arch: str = "none",
) -> Path:
    """A file that is no module but holds a build record, as a compiled one does."""
    text = RECORD.format(torch=torch_version, minimum=minimum, cuda=cuda, arch=arch)
    path = folder / "module.so"
    path.write_bytes(b"\x7fELF\0" + text.encode() + b"\0")
    return path


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path | None]:
    """Files that stand for ``_C`` and ``_C_cuda``; nothing really loaded changes."""
    files: dict[str, Path | None] = {"_C": None, "_C_cuda": None}
    monkeypatch.setattr(_extension, "_modules", {})
    monkeypatch.setattr(_extension, "find_module", files.get)
    monkeypatch.setattr(_extension, "not_built", lambda name: f"{name} was not built")
    monkeypatch.delenv("EFFDET_REQUIRE_KERNELS", raising=False)
    return files


def loading_says() -> str:
    """The printed form of the one warning of ``load``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _extension.load()
    (warning,) = caught
    assert warning.category is RuntimeWarning
    return warnings.formatwarning(
        warning.message, warning.category, warning.filename, warning.lineno
    )


def test_missing_build_warns_once(modules: dict[str, Path | None]) -> None:
    printed = loading_says()
    assert "_C was not built" in printed
    assert "pip install -e ." in printed
    assert printed.count("\n") == 1


def test_torch_too_old_is_one_line_with_both_versions(
    modules: dict[str, Path | None], tmp_path: Path
) -> None:
    modules["_C"] = module_file(tmp_path, torch_version="2.99.1+cu130", minimum="2.99")
    printed = loading_says()
    assert "built with torch 2.99.1+cu130" in printed
    assert f"running with torch {torch.__version__}" in printed
    assert "pip install -e ." in printed
    assert printed.count("\n") == 1


def test_undefined_symbol_is_one_line_with_both_versions(
    modules: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"{name}.so: undefined symbol:\n _ZNR5torch7Library4_defE")

    modules["_C"] = module_file(tmp_path, torch_version="2.98.0")
    monkeypatch.setattr(importlib, "import_module", fail)
    printed = loading_says()
    assert f"built with torch 2.98.0, running with torch {torch.__version__}" in printed
    assert "undefined symbol" in printed
    assert printed.count("\n") == 1


def test_other_cuda_takes_only_the_cuda_kernels_away(
    modules: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    modules["_C"] = module_file(tmp_path / "cpu", torch_version="2.14.1+cu999", cuda="none")
    modules["_C_cuda"] = module_file(tmp_path, "2.14.1+cu999", cuda="99.9", arch="8.0")
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    printed = loading_says()
    assert "built with torch 2.14.1+cu999" in printed
    assert "CUDA 99.9 against 13.0" in printed
    assert printed.count("\n") == 1
    info = build_info()
    assert info["cpu_kernels"]
    assert not info["cuda_kernels"]
    assert info["built_cuda"] == "99.9"


def test_cuda_kernels_are_not_missed_by_a_cpu_only_torch(
    modules: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    modules["_C"] = module_file(tmp_path / "cpu")
    modules["_C_cuda"] = module_file(tmp_path, cuda="13.0", arch="8.0")
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _extension.load()
    assert "CUDA 13.0 against None" in build_info()["reason"]


def test_required_kernels_raise(
    modules: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFDET_REQUIRE_KERNELS", "1")
    with pytest.raises(ImportError, match=r"effdet: .*_C was not built.*pip install -e \."):
        _extension.load()


def test_build_for_another_python_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "ops" / "_extension.py"))
    (tmp_path / "ops").mkdir()
    (tmp_path / "_C.cpython-36m-linux.so").touch()
    assert "_C.cpython-36m-linux.so was built for another Python" in _extension.not_built("_C")
    assert _extension.not_built("_C_cuda") == "the CUDA kernels were not built"


def test_real_modules_carry_their_record() -> None:
    path = _extension.find_module("_C")
    if path is None:
        pytest.skip("the kernels are not built")
    record = _extension.read_record(path)
    assert re.fullmatch(r"\d+\.\d+\.\S+", record.torch)
    assert record.min_torch == "2.11"


def test_build_info_as_a_program() -> None:
    command = [sys.executable, "-m", "effdet.ops"]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert names == list(build_info())
