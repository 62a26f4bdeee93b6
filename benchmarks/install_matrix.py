# SPDX-License-Identifier: Apache-2.0
"""Does ``pip install -e .`` work, and against which torch does it build? Real installs answer.

Every case installs a clone of the last commit into a fresh virtual environment in a temporary
folder, then runs the focal loss there. Takes 10 to 20 minutes and needs a package index, a C++
compiler, 20 GB of disk and, for the CUDA kernels, a CUDA toolkit.

    python benchmarks/install_matrix.py            # all cases
    python benchmarks/install_matrix.py NAME...    # some of them; the others keep their rows

Writes benchmarks/results/install_matrix.json and .md.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OLD_PIP, NEW_PIP = "pip==23.2.1", "pip>=26"
TORCH, CPU_TORCH = "torch==2.14.1", "torch==2.13.0"
GOLDEN_LOSS = 2.1547887  # logits -2, -1, 0, 1, 2, all background

CHECK = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import effdet.ops
import torch
level = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 5, 1, 1)
loss = effdet.ops.sigmoid_focal_loss([level], torch.tensor([[-1]]), num_classes=5)
said = [str(w.message) for w in caught if w.category is RuntimeWarning]
print(json.dumps({"loss": loss.item(), "warnings": said, **effdet.ops.build_info()}))
"""


FAILING_COMPILER = """#!/bin/sh
case " $* " in *" -c "*) echo "cannot compile" >&2; exit 1;; *) exec c++ "$@";; esac
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to install.

    Attributes:
        name: what is special about it.
        pip: requirement of the pip that installs.
        torch: requirement of the torch that is there before, or None.
        options: further words for ``pip install``.
        environment: further environment variables.
        before: requirements installed before.
        hide_toolkit: cover the CUDA toolkit with an empty file system.
        cuda: whether the CUDA kernels should load (where this machine has a toolkit).
        kernels: whether any kernels should load.
    """

    name: str
    pip: str = OLD_PIP
    torch: str | None = TORCH
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    hide_toolkit: bool = False
    cuda: bool = True
    kernels: bool = True


CASES = (
    Case(name="torch there, old pip"),
    Case(name="torch there, new pip", pip=NEW_PIP),
    Case(
        name="no build isolation",
        options=["--no-build-isolation"],
        before=["setuptools>=77", "ninja", "pybind11"],
    ),
    Case(
        name="no build isolation, setuptools only",
        pip=NEW_PIP,
        options=["--no-build-isolation"],
        before=["setuptools>=77"],
        environment={"EFFDET_CUDA": "0"},
        cuda=False,
    ),
    Case(name="CPU-only torch, old pip", torch=CPU_TORCH, cuda=False),
    Case(name="CPU-only torch, new pip", torch=CPU_TORCH, pip=NEW_PIP, cuda=False),
    Case(name="CUDA torch, no toolkit", hide_toolkit=True, cuda=False),
    Case(
        name="no C++ compiler", environment={"CXX": "no-such-compiler"}, cuda=False, kernels=False
    ),
    Case(name="compiler that fails", environment={"CXX": "failing-c++"}, cuda=False, kernels=False),
    Case(
        name="no torch, pinned, old pip",
        torch=None,
        environment={"PIP_CONSTRAINT": "constraints.txt"},
    ),
    Case(
        name="no torch, pinned, new pip",
        torch=None,
        pip=NEW_PIP,
        environment={"PIP_CONSTRAINT": "constraints.txt"},
    ),
)


def main() -> None:
    """Run the cases named on the command line, or all, and write the table."""
    names = sys.argv[1:] or [case.name for case in CASES]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="effdet-install-") as folder:
        bench = Bench(Path(folder))
        for case in CASES:
            if case.name in names:
                rows.append({**bench.run(case), "commit": commit()})
                print(json.dumps(rows[-1]), flush=True)
        rows += bench.cross_check()
    write(merged(rows))
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


class Bench:
    """The temporary folder with its virtual environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases: dict[tuple[str, str | None], Path] = {}
        self.log = RESULTS.parent.parent / "build" / "install_matrix.log"
        self.log.parent.mkdir(exist_ok=True)
        self.log.write_text("")
        self.toolkit = cuda_toolkit()
        (folder / "failing-c++").write_text(FAILING_COMPILER)
        (folder / "failing-c++").chmod(0o755)
        self.built: tuple[Path, Path] | None = None  # clone and environment with CUDA kernels

    def run(self, case: Case) -> dict[str, Any]:
        """Install one case and check what came out."""
        if case.hide_toolkit and not (self.toolkit and self.can_hide()):
            return {"case": case.name, "skipped": "no toolkit to hide, or no right", "passed": True}
        number = len(list(self.folder.glob("case-*")))
        home = self.folder / f"case-{number}"
        clone, venv = home / "source", home / "venv"
        home.mkdir()
        self.call(["git", "clone", "--quiet", str(ROOT), str(clone)])
        self.call(["cp", "-al", str(self.base(case.pip, case.torch)), str(venv)])
        if case.before:
            self.pip(venv, "install", *case.before)
        before = torch_version(venv)
        command = [str(venv / "bin/python"), "-m", "pip", "install", "-v", *case.options, "-e", "."]
        if case.hide_toolkit:
            script = f'mount -t tmpfs none "{self.toolkit}" && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", script, "sh", *command]
        start = time.monotonic()
        output = self.call(command, cwd=clone, environment=case.environment, check=False)
        seconds = time.monotonic() - start
        row = {
            "case": case.name,
            "pip": self.pip(venv, "--version").stdout.split()[1],
            "exit_code": output.returncode,
            "seconds": round(seconds),
            "build_says": build_line(output.stdout),
            "torch_in_build_environment": torch_built_with(output.stdout),
            "torch_before": before,
            "torch_after": torch_version(venv),
        }
        row |= self.check(venv, home)
        wants_cuda = case.cuda and self.toolkit is not None
        if row.get("cuda_kernels"):
            self.built = (clone, venv)
        row["passed"] = (
            row["exit_code"] == 0
            and (case.torch is None or row["torch_in_build_environment"] is None)
            and before in (None, row["torch_after"])
            and right_loss(row)
            and row.get("cpu_kernels") == case.kernels
            and row.get("cuda_kernels") == wants_cuda
            and (not case.kernels or row.get("built_torch") == row.get("running_torch"))
        )
        return row

    def cross_check(self) -> list[dict[str, Any]]:
        """The extension built for one torch, imported under another."""
        base = self.bases.get((OLD_PIP, CPU_TORCH))
        if self.built is None or base is None:
            return []
        row: dict[str, Any] = {"case": f"built with {TORCH}, imported under {CPU_TORCH}"}
        row |= self.check(base, self.built[0])
        row["passed"] = bool(
            right_loss(row) and row["cpu_kernels"] and row["built_torch"] != row["running_torch"]
        )
        return [row]

    def base(self, pip: str, torch: str | None) -> Path:
        """A virtual environment with this pip and torch, made once; cases get a copy of links."""
        if (pip, torch) not in self.bases:
            venv = self.folder / f"base-{len(self.bases)}"
            self.call([sys.executable, "-m", "venv", str(venv)])
            self.pip(venv, "install", pip)
            if torch:
                self.pip(venv, "install", torch)
            self.bases[pip, torch] = venv
        return self.bases[pip, torch]

    def check(self, venv: Path, folder: Path) -> dict[str, Any]:
        """What ``effdet.ops`` says and computes in this environment, started in ``folder``."""
        output = self.call([str(venv / "bin/python"), "-c", CHECK], cwd=folder, check=False)
        if output.returncode != 0:
            return {"error": output.stdout.strip().splitlines()[-1]}
        found: dict[str, Any] = json.loads(output.stdout.strip().splitlines()[-1])
        return found

    def pip(self, venv: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's own pip."""
        return self.call([str(venv / "bin/python"), "-m", "pip", *words])

    def can_hide(self) -> bool:
        """Whether this user may cover a folder in a mount namespace."""
        script = f'mount -t tmpfs none "{self.toolkit}"'
        return self.call(["unshare", "-m", "sh", "-c", script], check=False).returncode == 0

    def call(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, both of its streams in ``stdout`` and in the log."""
        path = {"PATH": f"{os.environ['PATH']}:{self.folder}"}
        result = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=clean_environment() | path | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n{result.stdout}\n[exit {result.returncode}]\n")
        if check and result.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed, see {self.log}")
        return result


def clean_environment() -> dict[str, str]:
    """This environment without what would steer Python or the build."""
    steering = ("PYTHON", "EFFDET_", "VIRTUAL_ENV", "CUDA_HOME", "PIP_CONSTRAINT", "TORCH_")
    return {k: v for k, v in os.environ.items() if not k.startswith(steering)}


def cuda_toolkit() -> str | None:
    """The folder of this machine's CUDA toolkit, with links resolved."""
    sys.path.insert(0, str(ROOT))
    from setup import find_cuda_home

    home = find_cuda_home(os.environ)
    return str(Path(home).resolve()) if home else None


def torch_version(venv: Path) -> str | None:
    """Version of the environment's torch by its metadata, without its import."""
    code = "from importlib.metadata import version; print(version('torch'))"
    result = subprocess.run(
        [str(venv / "bin/python"), "-c", code], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None


def torch_built_with(log: str) -> str | None:
    """The torch that pip put into the isolated build environment, or None."""
    installed = re.findall(r"Successfully installed (.*)", log)
    found = [re.search(r"\btorch-(\S+)", line) for line in installed[:-1]]
    return next((match.group(1) for match in found if match), None)


def build_line(log: str) -> str:
    """What setup.py said, without this machine's folders."""
    lines = re.findall(r"effdet build: (.*)", log)
    return re.sub(r" (at|with) /[^\s;,]+", "", "; ".join(lines))


def right_loss(row: Mapping[str, Any]) -> bool:
    """Whether the check computed the golden loss."""
    return bool(abs(row.get("loss", 0.0) - GOLDEN_LOSS) < 1e-5)


def machine() -> str:
    """Processor and system in a line."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    name = model.group(1) if model else platform.processor()
    return f"{name}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """The commit that the clones are made of."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def merged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` in place of the rows of the same cases in the last result, the others kept."""
    path = RESULTS / "install_matrix.json"
    last = json.loads(path.read_text())["cases"] if path.exists() else []
    return list({row["case"]: row for row in [*last, *rows]}.values())


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """The results as JSON, and as a table to read."""
    head = {
        "command": "python benchmarks/install_matrix.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    data = json.dumps({**head, "cases": rows}, indent=2)
    (RESULTS / "install_matrix.json").write_text(data + "\n")
    lines = [
        "# Install matrix",
        "",
        *(f"- {name}: {value}" for name, value in head.items()),
        "",
        "| case | pip | passed | seconds | torch before | in build environment | built with "
        "| running | CPU kernels | CUDA kernels | the build says |",
        "|---" * 11 + "|",
    ]
    columns = (
        "case", "pip", "passed", "seconds", "torch_before", "torch_in_build_environment",
        "built_torch", "running_torch", "cpu_kernels", "cuda_kernels", "build_says",
    )  # fmt: skip
    lines += ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    (RESULTS / "install_matrix.md").write_text("\n".join(lines) + "\n")


def cell(value: object) -> str:
    """A value as a table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    main()
