# SPDX-License-Identifier: Apache-2.0
"""What does reading a TensorFlow checkpoint cost, against reading its bytes and nothing else?

Writes a D7x with moving averages and one without, and reads each in turn

- ``ours``: opened, every checksum verified, as tensors of our names and layouts;
- ``bytes``: the same bytes of the same places into one buffer, what the disk allows;
- ``checksums``: the same bytes from memory, summed,

with the file in the page cache (warm) and dropped from it (cold, as far as the system obeys). Peak
memory is that of a process that holds the model and loads it.

    python benchmarks/tf_checkpoint.py [--rounds 5]

Writes benchmarks/results/tf_checkpoint.json. Linux.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from effdet.config import MODELS
from effdet.models import build_model
from effdet.weights import load_state, translate
from effdet.weights.formats.bundle import Entry, read_bundle
from effdet.weights.formats.crc32c import masked_crc32c
from effdet.weights.formats.tensorflow import open_tensorflow
from effdet.weights.sources.automl import DETECTOR
from tests.weights.exported import export
from tests.weights.tf_writer import EMA, data_file, write_checkpoint, write_with_raw

CONFIG = MODELS["efficientdet_d7x"]
LIMIT = 1.2
"""Files that reading may take in memory beside the model."""


def main() -> None:
    """Write the files, measure, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"model": CONFIG.name, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        for name, averages in (("with_averages", True), ("without_averages", False)):
            prefix = Path(folder) / name
            in_a_child(write, prefix, averages)
            figures[name] = measured(prefix, rounds)
            print(name, json.dumps(figures[name], indent=1), flush=True)
    write_result("tf_checkpoint", figures)
    worst = max(figures[name]["peak_memory_files"] for name in figures if "averages" in name)
    if worst > LIMIT:
        raise SystemExit(f"reading took {worst} times the file, more than {LIMIT}")


def write(prefix: Path, averages: bool) -> None:
    """A checkpoint of random values."""
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in translate.our_shapes(CONFIG).items()}
    values = export(DETECTOR, CONFIG, state)
    (write_with_raw if averages else write_checkpoint)(prefix, values)


def measured(prefix: Path, rounds: int) -> dict[str, Any]:
    """Sizes, seconds of each subject and peak memory."""
    file = data_file(prefix, 0, 1)
    entries = entries_to_read(prefix)
    size, peak = file.stat().st_size, in_a_child(peak_memory, prefix)
    return {
        "file_mb": round(size / 1e6, 1),
        "read_mb": round(sum(entry.size for entry in entries) / 1e6, 1),
        "tensors": len(entries),
        "seconds": timed(prefix, file, rounds),
        "peak_memory_mb": round(peak / 1e6, 1),
        "peak_memory_files": round(peak / size, 3),
    }


def timed(prefix: Path, file: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Best and median wall seconds, and best CPU seconds, of all subjects in turn."""
    translate.our_shapes(CONFIG)  # known before, as in a process that has the model
    subjects = {"ours": read_ours, "bytes": read_bytes, "checksums": sum_bytes}
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, subject in subjects.items():
            for state in ("cold", "warm"):
                if state == "cold":
                    drop_from_cache(file)
                wall, cpu = time.perf_counter(), time.process_time()
                subject(prefix)
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
                found.setdefault(f"{name} {state}", []).append(spent)
    del found["checksums cold"]  # of memory
    return {
        name: {
            "best": round(min(wall for wall, _ in spent), 3),
            "median": round(statistics.median(wall for wall, _ in spent), 3),
            "cpu": round(min(cpu for _, cpu in spent), 3),
        }
        for name, spent in found.items()
    }


def entries_to_read(prefix: Path) -> list[Entry]:
    """Those that become our tensors: averages where there are some."""
    with prefix.with_name(f"{prefix.name}.index").open("rb") as file:
        entries = read_bundle(file).entries
    return [e for e in entries if e.name.endswith(EMA)] or list(entries)


def read_ours(prefix: Path) -> None:
    """All tensors of our model."""
    translate.state_dict(DETECTOR, CONFIG, open_tensorflow(prefix).best())


def read_bytes(prefix: Path) -> None:
    """The bytes of all tensors into one buffer that is large enough for any."""
    entries = entries_to_read(prefix)
    buffer = memoryview(bytearray(max(entry.size for entry in entries)))
    with data_file(prefix, 0, 1).open("rb", buffering=0) as file:
        for entry in entries:
            file.seek(entry.offset)
            file.readinto(buffer[: entry.size])


def sum_bytes(prefix: Path) -> None:
    """Checksums of as many bytes of memory."""
    entries = entries_to_read(prefix)
    data = np.zeros(max(entry.size for entry in entries), np.uint8)
    for entry in entries:
        masked_crc32c(data[: entry.size])


def peak_memory(prefix: Path) -> int:
    """Bytes that loading takes at most, above what the process with the model has."""
    model = build_model(CONFIG)
    translate.our_shapes(CONFIG)
    # What building has left behind would else be used again and not be seen.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    state = translate.state_dict(DETECTOR, CONFIG, open_tensorflow(prefix).best())
    load_state(model, state, prefix)
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def drop_from_cache(file: Path) -> None:
    """Ask the system to forget the pages of ``file``, all of which are on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def in_a_child(run: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``run`` in a process of its own that begins with little memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


if __name__ == "__main__":
    main()
