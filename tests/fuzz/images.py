# SPDX-License-Identifier: Apache-2.0
"""Damaged image files through the decoder, in processes whose death costs one case.

    python -m tests.fuzz.images --cases 100000 --seed 0
    python -m tests.fuzz.images --cases 5000 --decoder torchvision

The file of a case is ``mutated(seed, case)``.
"""

import argparse
import json
import mmap
import os
import resource
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effdet.data.images import decode_image
from effdet.errors import DataError
from effdet.settings import MAX_PIXELS
from tests.fuzz.image_files import mutated, seeds

BATCH = 500
HANG_SECONDS = 10.0
"""Of work; of waiting for whatever it may be six times as many: others use the machine, too."""

FAULTS_KEPT = 20

DECODED, REFUSED, FAULT = range(3)
_STATE = struct.Struct("<qqqqqdd")
"""The case at work, how many of each outcome, the case of most memory, longest, began: CPU s."""

Decode = Callable[[Path], int]


def fuzz(cases: int, seed: int, decode: Decode | None = None) -> dict[str, Any]:
    """Figures of ``cases`` mutated files: outcomes, peak memory, the longest case, what failed.

    Every entry of ``deaths``, ``hangs`` and ``faults`` begins with its case.
    """
    seeds()  # made once, before the processes fork
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "cases": cases, "seed": seed, "seed_files": len(seeds()), "decoded": 0, "refused": 0,
        "num_deaths": 0, "num_hangs": 0, "num_faults": 0,
        "longest_cpu_s": 0.0, "peak_memory_mb": 0, "peak_case": -1,
        "deaths": [], "hangs": [], "faults": [],
    }  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        first = 0
        while first < cases:
            last = min(first + BATCH, cases)
            first = _batch(range(first, last), seed, Path(folder), decode or decode_ours, found)
    found["seconds"] = round(time.monotonic() - start, 1)
    found["longest_cpu_s"] = round(found["longest_cpu_s"], 3)
    return found


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _batch(cases: range, seed: int, folder: Path, decode: Decode, found: dict[str, Any]) -> int:
    """Run ``cases`` in a process of their own, or as many as it survives; the next case."""
    faults = folder / "faults"
    faults.write_text("")
    with mmap.mmap(-1, _STATE.size) as state:
        state[:] = _STATE.pack(cases.start, 0, 0, 0, -1, 0.0, 0.0)
        process = os.fork()
        if not process:
            _work(cases, seed, folder, decode, state)
        status, used, hung = _wait(process, state)
        case, decoded, refused, bad, largest, longest, _ = _STATE.unpack(state[:])
    found["decoded"] += decoded
    found["refused"] += refused
    found["num_faults"] += bad
    found["longest_cpu_s"] = max(found["longest_cpu_s"], longest)
    if used.ru_maxrss // 1024 > found["peak_memory_mb"]:
        found["peak_memory_mb"], found["peak_case"] = used.ru_maxrss // 1024, largest
    found["faults"] += faults.read_text().splitlines()[: FAULTS_KEPT - len(found["faults"])]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return cases.stop
    what = "hang" if hung else "death"
    found[f"num_{what}s"] += 1
    if len(found[f"{what}s"]) < FAULTS_KEPT:
        how = f"signal {status & 0x7F}" if os.WIFSIGNALED(status) else f"status {status}"
        found[f"{what}s"].append(f"{case}: {how}")
    return case + 1


def _wait(process: int, state: mmap.mmap) -> tuple[int, resource.struct_rusage, bool]:
    """Until the process ends, or is ended because a case takes too long."""
    case, since, hung = -1, time.monotonic(), False
    while True:
        ended, status, used = os.wait4(process, os.WNOHANG)
        if ended:
            return status, used, hung
        now, *_, began = _STATE.unpack(state[:])
        waited, worked = time.monotonic() - since, _cpu_seconds(process) - began
        if now != case:
            case, since = now, time.monotonic()
        elif not hung and (waited > 6 * HANG_SECONDS or worked > HANG_SECONDS):
            hung = True
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)


def _cpu_seconds(process: int) -> float:
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _work(cases: range, seed: int, folder: Path, decode: Decode, state: mmap.mmap) -> None:
    """What the process does; it never returns."""
    counts, longest, largest, code = [0, 0, 0], 0.0, -1, 1
    try:
        # libtiff prints there itself, many lines for a damaged file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        path = folder / "image of a case"
        for case in cases:
            path.write_bytes(mutated(seed, case))
            start, memory = time.process_time(), _peak_memory()
            state[:] = _STATE.pack(case, *counts, largest, longest, start)
            try:
                counts[decode(path)] += 1
            except BaseException as error:
                counts[FAULT] += 1
                with (folder / "faults").open("a") as file:
                    file.write(f"{case}: {type(error).__name__}: {ascii(str(error))[:200]}\n")
            longest = max(longest, time.process_time() - start)
            largest = case if _peak_memory() > memory else largest
        state[:] = _STATE.pack(cases.stop, *counts, largest, longest, 0.0)
        code = 0
    finally:
        os._exit(code)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def decode_ours(path: Path) -> int:
    """Our decoder, and what it promises."""
    try:
        image = decode_image(path)
    except DataError as error:
        text = str(error)
        assert text.startswith(f"{path}: "), f"the file is not named: {text}"
        assert text.isprintable(), f"more than a line: {text}"
        assert len(text) > len(f"{path}: "), "no reason"
        return REFUSED
    assert image.dtype == torch.uint8, f"{image.dtype}"
    assert image.ndim == 3, f"{image.shape}"
    assert image.shape[0] == 3, f"{image.shape}"
    assert 0 < image.shape[1] * image.shape[2] <= MAX_PIXELS, f"{image.shape}"
    return DECODED


def decode_torchvision(path: Path) -> int:
    """The peer's, of which only its death is a fault."""
    from torchvision.io import decode_image as decode_theirs

    try:
        decode_theirs(str(path), mode="RGB")
    except Exception:
        return REFUSED
    return DECODED


DECODERS = {"effdet": decode_ours, "torchvision": decode_torchvision}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", choices=DECODERS, default="effdet")
    words = parser.parse_args()
    if words.decoder == "torchvision":
        import torchvision  # noqa: F401 (before the processes fork)
    print(json.dumps(fuzz(words.cases, words.seed, DECODERS[words.decoder]), indent=1))


if __name__ == "__main__":
    main()
