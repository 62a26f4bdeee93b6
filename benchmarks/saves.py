# SPDX-License-Identifier: Apache-2.0
"""Does a run ever lose its checkpoint, whatever ends the process or the machine while it saves?

- ``kills``: SIGKILL at a random time, ``--count`` times, while saves run back to back; beside it
  the same with a plain ``torch.save`` onto the file.
- ``system_calls``: SIGKILL before and after every system call of one save.
- ``power_loss``: every state that the disk may be left in by a power loss during three saves, and
  how many of them have no good checkpoint; also with either fsync left out.
- ``changed_bytes``: every byte of a small checkpoint changed in turn.

    python benchmarks/saves.py [--count 1000] [--seed 0]

Writes benchmarks/results/saves.json.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from effdet.errors import WeightsError
from effdet.weights import load_checkpoint, save_checkpoint
from tests.any_weights import any_weights
from tests.reliability.disk import bad_states, record
from tests.reliability.saving import (
    SAVERS,
    checkpoint,
    kill_at_every_call,
    kill_at_random,
    save_ours,
)

KILLED_SIZE, TRACED_SIZE, SMALL_SIZE = 1_000_000, 100_000, 256
"""Bytes of tensors in a checkpoint."""


def main() -> None:
    """Do each test, print its outcomes and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="kills at a random time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "kills": kills(options.count, options.seed),
        "system_calls": system_calls(),
        "power_loss": power_loss(),
        "changed_bytes": changed_bytes(options.seed),
    }
    write_result("saves", figures)


def kills(count: int, seed: int) -> dict[str, Any]:
    """Outcomes of kills at random times."""
    result: dict[str, Any] = {"count": count, "seed": seed, "bytes": KILLED_SIZE}
    for name in SAVERS:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = kill_at_random(name, Path(folder), count, seed, KILLED_SIZE)
        print("kills", name, result[name], flush=True)
    return result


def system_calls() -> dict[str, Any]:
    """Outcomes of kills at each call."""
    result: dict[str, Any] = {"bytes": TRACED_SIZE}
    for name in SAVERS:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = kill_at_every_call(name, Path(folder), TRACED_SIZE)
        print("system calls", name, result[name], flush=True)
    return result


def power_loss() -> dict[str, Any]:
    """States and how many are bad, with both fsyncs, one and none."""
    result: dict[str, Any] = {"saves": 3}
    for syncs in (("file", "folder"), ("file",), ("folder",), ()):
        with tempfile.TemporaryDirectory() as place:
            disk = record(Path(place), syncs, lambda at, k: save_ours(at, k, SMALL_SIZE), 3)
        name = f"fsync of {' and '.join(syncs) or 'nothing'}"
        result[name] = {"states": len(disk.states), "bad": len(bad_states(disk))}
        print(name, result[name], flush=True)
    return result


def changed_bytes(seed: int) -> dict[str, int]:
    """How many bytes a file has, and how many of them are noticed when changed."""
    generator, noticed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder, any_weights():
        path = Path(folder) / "a.pt"
        save_checkpoint(checkpoint(1, SMALL_SIZE), path)
        content = path.read_bytes()
        for position in range(len(content)):
            broken = bytearray(content)
            broken[position] ^= generator.randrange(1, 256)
            path.write_bytes(broken)
            try:
                load_checkpoint(path)
            except WeightsError:
                noticed += 1
    result = {"bytes": len(content), "noticed": noticed, "seed": seed}
    print("changed bytes", result, flush=True)
    return result


if __name__ == "__main__":
    main()
