# SPDX-License-Identifier: Apache-2.0
"""Metadata, the build backend and the decisions of setup.py (real installs: benchmarks)."""

import importlib.util
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import effdet
from effdet.extras import EXTRAS

ROOT = Path(__file__).parents[1]


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    pytest.importorskip("setuptools")
    return load("backend", ROOT / "_build" / "backend.py")


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    pytest.importorskip("setuptools")
    return load("effdet_setup", ROOT / "setup.py")


def toolkit(folder: Path, version: str = "13.0") -> Path:
    """A folder that looks like a CUDA toolkit."""
    (folder / "bin").mkdir(parents=True)
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    nvcc.chmod(0o755)
    return folder


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# --- metadata ---


def test_version_has_one_source() -> None:
    try:
        installed = metadata.version("effdet-toolkit")
    except metadata.PackageNotFoundError:
        pytest.skip("effdet-toolkit is not installed")
    assert installed == effdet.__version__


def test_import_of_the_package_is_light() -> None:
    """The version is read without torch, and metadata steps need no torch."""
    code = "import sys, effdet; assert effdet.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_torch_is_no_static_build_requirement() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (requires,) = re.findall(r"^requires = (.*)$", text, re.MULTILINE)
    assert "torch" not in requires
    assert {"ninja", "pybind11>=2.13"} <= set(re.findall(r'"([^"]+)"', requires))


def test_messages_name_the_packages_of_an_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for extra, packages in EXTRAS.items():
        (named,) = re.findall(rf"^{extra} = \[(.*?)\]$", text, re.MULTILINE)
        assert tuple(re.findall(r'"([^"]+)"', named)) == packages


def test_every_dependency_is_pinned() -> None:
    text = (ROOT / "pyproject.toml").read_text().split("[project]")[1].split("[project.scripts]")[0]
    lists = re.findall(r"^(?!dynamic)[a-z]+ = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    named = {re.split(r"[<>=]", name)[0] for name in re.findall(r'"([^"]+)"', "".join(lists))}
    needed = {name.lower() for name in named if not name.startswith("effdet-toolkit[")}
    assert {"torch", "onnx", "mypy"} <= needed
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert needed == pinned


def test_only_one_minimum_torch(backend: ModuleType, setup: ModuleType) -> None:
    minimum = ".".join(map(str, setup.MIN_TORCH))
    assert f"torch>={minimum}" == backend.TORCH
    assert f'"torch>={minimum}"' in (ROOT / "pyproject.toml").read_text()


# --- backend ---


def test_target_environment_is_this_one(backend: ModuleType) -> None:
    found = backend.target_environment()
    assert found["torch"] == (importlib.util.find_spec("torch") is not None)
    assert all(found["path"])


def test_isolation_is_seen_through(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip isolates a build by PYTHONPATH; the probe must see the environment behind it.
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    found = backend.target_environment()
    assert found["torch"]
    assert "/nowhere" not in found["path"]


def test_torch_is_asked_for_only_where_there_is_none(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    assert backend.get_requires_for_build_editable() == []
    monkeypatch.setattr(backend, "_torch_here", lambda: False)
    assert backend.get_requires_for_build_editable() == []
    monkeypatch.setattr(backend, "target_environment", lambda: {"path": [], "torch": False})
    assert backend.get_requires_for_build_editable() == [backend.TORCH]
    assert backend.get_requires_for_build_wheel() == [backend.TORCH]


def test_constraints_pin_the_torch_that_is_built_against(
    backend: ModuleType, tmp_path: Path
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("torchvision==0.29.1\ntorch == 2.14.1 # pinned\n")
    environment = {"PIP_CONSTRAINT": f"{tmp_path / 'missing.txt'} {constraints}"}
    assert backend.torch_requirement(environment) == "torch==2.14.1"
    assert backend.torch_requirement({}) == backend.TORCH


# --- setup.py ---


def test_metadata_commands_do_not_build(setup: ModuleType) -> None:
    assert setup.is_build(["setup.py", "editable_wheel"])
    assert setup.is_build(["setup.py", "build_ext", "--inplace"])
    assert not setup.is_build(["setup.py", "dist_info"])
    assert not setup.is_build(["setup.py", "egg_info"])


def test_failing_compiler_is_an_error_only_on_demand(setup: ModuleType) -> None:
    assert not setup.is_required(["setup.py", "editable_wheel"], {})
    assert setup.is_required(["setup.py", "editable_wheel"], {"EFFDET_REQUIRE_KERNELS": "1"})
    assert setup.is_required(["setup.py", "build_ext", "--inplace"], {})


def test_compiler_is_the_users_or_the_first_on_the_path(setup: ModuleType, tmp_path: Path) -> None:
    executable(tmp_path / "clang++")
    path = {"PATH": str(tmp_path)}
    assert setup.find_compiler(path) == "clang++"
    executable(tmp_path / "g++")
    assert setup.find_compiler(path) == "g++"
    assert setup.find_compiler(path | {"CXX": "clang++ -m64"}) == "clang++ -m64"
    assert setup.find_compiler(path | {"CXX": "missing"}) is None
    executable(tmp_path / "broken", "#!/bin/sh\nexit 1\n")
    assert setup.find_compiler(path | {"CXX": "broken"}) is None
    assert setup.find_compiler({"PATH": str(tmp_path / "empty")}) is None


def test_cuda_home_needs_compiler_and_headers(setup: ModuleType, tmp_path: Path) -> None:
    executable(tmp_path / "wrapper/bin/nvcc")
    assert not setup.is_cuda_home(tmp_path / "wrapper")
    home = toolkit(tmp_path / "cuda")
    assert setup.is_cuda_home(home)
    assert setup.find_cuda_home({"CUDA_HOME": str(home), "PATH": ""}) == str(home)


def test_cuda_home_is_found_behind_a_wrapper(setup: ModuleType, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "real")
    executable(tmp_path / "wrapper/bin/nvcc", f"#!/bin/sh\necho '#$ TOP={home}/bin/..' >&2\n")
    path = f"{tmp_path / 'wrapper/bin'}:/usr/bin:/bin"
    assert setup.find_cuda_home({"PATH": path}) == str(home)


@pytest.mark.parametrize(
    ("wish", "torch_cuda", "toolkit_version", "reason"),
    [
        ("auto", "13.0", "13.0", None),
        ("1", "13.2", "13.0", None),
        ("0", "13.0", "13.0", "EFFDET_CUDA=0"),
        ("auto", None, "13.0", "torch 2.14.1 has no CUDA"),
        ("auto", "13.0", None, "no CUDA toolkit"),
        ("auto", "13.0", "12.8", "CUDA 12.8 .* does not fit torch's CUDA 13.0"),
    ],
)
def test_reason_for_no_cuda_kernels(
    setup: ModuleType,
    tmp_path: Path,
    wish: str,
    torch_cuda: str | None,
    toolkit_version: str | None,
    reason: str | None,
) -> None:
    home = str(toolkit(tmp_path / "cuda", toolkit_version)) if toolkit_version else None
    found = setup.why_no_cuda(wish, "2.14.1", torch_cuda, home)
    assert (found is None) == (reason is None)
    assert reason is None or re.search(reason, found)


def test_wrong_wish_is_named(setup: ModuleType) -> None:
    assert setup.cuda_wish({}) == "auto"
    with pytest.raises(SystemExit, match="EFFDET_CUDA must be auto, 1 or 0, got 'maybe'"):
        setup.cuda_wish({"EFFDET_CUDA": "maybe"})


def test_record_is_what_the_loader_reads(setup: ModuleType, tmp_path: Path) -> None:
    from effdet.ops import _extension

    path = tmp_path / "module.so"
    path.write_bytes(setup.build_record("2.14.1+cu130", "13.0", "8.0;9.0+PTX").encode())
    record = _extension.read_record(path)
    assert record == _extension.BuildRecord("2.14.1+cu130", "2.11", "13.0", "8.0;9.0+PTX")


@pytest.mark.parametrize("argv", [["editable_wheel"], ["build_ext"]])
def test_missing_compiler(
    setup: ModuleType,
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", *argv])
    monkeypatch.delenv("EFFDET_REQUIRE_KERNELS", raising=False)
    monkeypatch.setattr(setup, "find_compiler", lambda environment: None)
    if argv == ["build_ext"]:
        with pytest.raises(SystemExit, match="no C\\+\\+ compiler that runs"):
            setup.kernels()
        return
    assert setup.kernels() == {}
    printed = capsys.readouterr().err
    assert "no C++ compiler that runs" in printed
    assert printed.count("\n") == 1


# --- one command ---


def test_ci_runs_exactly_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


@pytest.mark.parametrize("target", ["test", "test-slow", "lint", "kernels", "sanitize"])
def test_make_targets_expand(target: str) -> None:
    result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ".venv/bin/" in result.stdout
