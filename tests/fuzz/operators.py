# SPDX-License-Identifier: Apache-2.0
"""Calls the CPU kernels of all operators with generated arguments.

    make sanitize                 # or, with a build by EFFDET_SANITIZE=1 in build/sanitize:
    python tests/fuzz/operators.py --sanitized --cases 100000 --seed 0
    python tests/fuzz/operators.py --cases 1 --first 4711        # one case again, plain build

Most calls are right and must succeed; some have one argument spoilt (dtype, shape, length, extreme
numbers) and may be refused, but not crash. Results are compared with the operator's definition in
PyTorch; under AddressSanitizer and UndefinedBehaviorSanitizer every tenth. The calls run in
processes of their own, half of them with the least instruction set: where one dies, its case is
noted and the next ones follow. ``--sanitized`` writes benchmarks/results/sanitize.json.
"""

import argparse
import datetime
import importlib
import importlib.util
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize" / "effdet"
RESULT = ROOT / "benchmarks" / "results" / "sanitize.json"
FAULTS = "EFFDET_FUZZ_FAULTS"
"""Numbers of cases that fail for a test: odd ones by a difference, even ones by a signal."""
SANITIZERS = "address, undefined, float-cast-overflow"


def fuzz(cases: int, seed: int, *, first: int = 0, sanitized: bool = False) -> dict[str, Any]:
    """Run the cases and count what came of them.

    Args:
        cases: how many.
        seed: of all cases; case N is the same whatever the others.
        first: number of the first case.
        sanitized: whether to load the build in build/sanitize.

    Returns:
        ``cases``, ``seed``, ``outcomes`` (compared, called, refused), ``operators`` (cases of
        each), ``differences`` (results that are not the definition's) and ``deaths`` (each with
        the number of its case), ``instruction_sets``, ``peak_memory_mb``, ``longest_s``,
        ``seconds``.
    """
    begin = time.monotonic()
    half = (cases + 1) // 2
    found = [
        *_run("", first, half, seed, sanitized),
        *_run("baseline", first + half, cases - half, seed, sanitized),
    ]
    done = [part for part in found if "outcomes" in part]
    totals: dict[str, Counter[str]] = {"outcomes": Counter(), "operators": Counter()}
    for part in done:
        for name, counts in totals.items():
            counts.update(part[name])
    return {
        "cases": cases,
        "seed": seed,
        **{name: dict(sorted(counts.items())) for name, counts in totals.items()},
        "differences": [part["difference"] for part in found if "difference" in part],
        "deaths": [part["death"] for part in found if "death" in part],
        "instruction_sets": sorted({part["instruction_set"] for part in done}),
        "peak_memory_mb": max((part["peak_memory_mb"] for part in done), default=0),
        "longest_s": max((part["longest_s"] for part in done), default=0.0),
        "seconds": round(time.monotonic() - begin),
    }


def _run(
    instruction_set: str, first: int, cases: int, seed: int, sanitized: bool
) -> list[dict[str, Any]]:
    """What the processes found; one that died is followed by another after its last case."""
    found, end = [], first + cases
    while first < end:
        with tempfile.NamedTemporaryFile() as progress:
            progress.write(b" " * 64)
            progress.flush()
            command = [
                sys.executable, __file__, "--worker", f"--progress={progress.name}",
                f"--cases={end - first}", f"--seed={seed}", f"--first={first}",
                *(["--sanitized"] if sanitized else []),
            ]  # fmt: skip
            result = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(instruction_set, sanitized),
                capture_output=True,
                text=True,
            )
            case = Path(progress.name).read_text().split()
        found += map(json.loads, result.stdout.splitlines())
        if result.returncode == 0:
            break
        if not case:
            raise RuntimeError(f"no case was run: {result.stderr}")
        death = {"case": int(case[0]), "operator": case[1], "instruction_set": instruction_set}
        found.append({"death": death | {"exit": result.returncode, "text": result.stderr[-2000:]}})
        first = int(case[0]) + 1
    return found


def _environment(instruction_set: str, sanitized: bool) -> dict[str, str]:
    """Of a worker; one with sanitizers needs their libraries before all others."""
    chosen = instruction_set or os.environ.get("EFFDET_INSTRUCTION_SET", "")
    plain = {
        "EFFDET_INSTRUCTION_SET": chosen,
        "OMP_WAIT_POLICY": "passive",  # threads that spin take the processor from one another
        "PYTHONPATH": str(ROOT),
    }
    if not sanitized:
        return os.environ | plain
    compiler = os.environ.get("CXX", "g++").split()
    names = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    libraries = [
        subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    return (
        os.environ
        | plain
        | {
            "LD_PRELOAD": " ".join(libraries),
            # Python keeps memory to its end; a size beyond all memory is an error to be handled.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
    )


# --- the worker ---


def work(options: argparse.Namespace) -> None:
    """Run the cases; the number of the current one is in the shared file ``options.progress``.

    Prints a line for each difference and, at the end, one for the counts.
    """
    if options.sanitized:
        load_sanitized_kernels()
    operator_case = importlib.import_module("tests.fuzz.operator_case")
    build_info = importlib.import_module("effdet.ops").build_info
    names = [name for name in operator_case.OPERATORS if operator_case.exists(name)]
    assert build_info()["cpu_kernels"], "the kernels would be compared with nothing"
    outcomes, operators, longest = Counter(), Counter(), 0.0
    faults = os.environ.get(FAULTS, "").split()
    with options.progress.open("r+b") as file, mmap.mmap(file.fileno(), 64) as progress:
        for number in range(options.first, options.first + options.cases):
            name = names[number % len(names)]
            progress[:] = f"{number} {name}".encode().ljust(64)
            begin = time.monotonic()
            try:
                if str(number) in faults:
                    assert number % 2 == 0, "as a test wanted"
                    os.kill(os.getpid(), signal.SIGSEGV)
                every = 10 if options.sanitized else 1
                operator_case.run_case(name, number // len(names), options.seed, outcomes, every)
            except AssertionError as error:
                fault = {"case": number, "operator": name, "text": str(error)[:500]}
                print(json.dumps({"difference": fault}), flush=True)
            longest = max(longest, time.monotonic() - begin)
            operators[name] += 1
    found = {
        "instruction_set": build_info()["instruction_set"],
        "outcomes": outcomes,
        "operators": operators,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "longest_s": round(longest, 3),
    }
    print(json.dumps(found))


def load_sanitized_kernels() -> None:
    """Make the module in build/sanitize the ``effdet._C`` that effdet.ops finds."""
    (path,) = BUILD.glob("_C.*.so")
    content = path.read_bytes()
    assert b"__asan_report_load" in content, f"{path} is not built with EFFDET_SANITIZE=1"
    assert b"__ubsan_handle" in content
    import torch  # noqa: F401  whose libraries the module needs

    import effdet

    spec = importlib.util.spec_from_file_location("effdet._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["effdet._C"] = module
    spec.loader.exec_module(module)
    effdet._C = module  # type: ignore[attr-defined]
    importlib.import_module("effdet.ops")


# --- the program ---


def main() -> None:
    """Run the cases, print what came of them, and leave with 1 where there was a fault."""
    options = parse()
    if options.worker:
        work(options)
        return
    found = fuzz(options.cases, options.seed, first=options.first, sanitized=options.sanitized)
    if options.sanitized and options.first == 0:
        save(found)
    print(json.dumps(found, indent=2))
    if found["differences"] or found["deaths"]:
        again = f"--seed {options.seed} --first CASE --cases 1"
        sys.exit(f"again: EFFDET_INSTRUCTION_SET=... python tests/fuzz/operators.py {again}")


def save(found: dict[str, Any]) -> None:
    """Write the result file of ``make sanitize``."""
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    measuring = importlib.import_module("measuring")
    head = {
        "command": f"make sanitize CASES={found['cases']} SEED={found['seed']}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": measuring.commit(),
        "machine": measuring.machine(),
        "sanitizers": SANITIZERS,
        "reports": len(found["deaths"]) + len(found["differences"]),
    }
    RESULT.write_text(json.dumps(head | found, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--sanitized", action="store_true", help="the build in build/sanitize")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
