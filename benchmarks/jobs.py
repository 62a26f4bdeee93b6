# SPDX-License-Identifier: Apache-2.0
"""How often whole training jobs survive being killed: results/jobs.json.

    python benchmarks/jobs.py --kills 200

Jobs of two processes under torchrun are killed (SIGKILL) at random moments, either rank, the
agent, the whole group or a loader worker, and started again with --resume auto until they are
through. They must end with the bits of a job that was left alone: weights, average, optimizer,
loss scale, random generators, history.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.measuring import write_result
from tests.reliability.job_kills import kill_jobs
from tests.reliability.job_runs import BATCH, EPOCHS, IMAGES, STEPS_PER_EPOCH, Server


def main() -> None:
    """Kill, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills to make")
    parser.add_argument("--seed", type=int, default=1, help="of targets and moments")
    parser.add_argument("--at-once", type=int, default=2, help="jobs that run at the same time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            kills = kill_jobs(
                server,
                arguments.kills,
                arguments.seed,
                at_once=arguments.at_once,
                say=lambda text: print(text, flush=True),
            )
        finally:
            server.close()
    figures = {
        "kills": kills.count,
        "seed": arguments.seed,
        "job": f"2 processes, {EPOCHS} epochs of {STEPS_PER_EPOCH} steps of 2 x {BATCH} of "
        f"{IMAGES} images, a checkpoint every 3 steps",
        **asdict(kills),
        "targets": dict(kills.targets),
        "phases": dict(kills.phases),
        "slowest_end": round(kills.slowest_end, 1),
        "seconds": round(time.monotonic() - begin),
    }
    print(figures)
    write_result("jobs", figures)


if __name__ == "__main__":
    main()
