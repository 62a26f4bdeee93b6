# SPDX-License-Identifier: Apache-2.0
"""Small jobs of two processes in which one misbehaves in step 5.

torchrun --nproc-per-node 2 tests/training/peers_job.py MODE TIMEOUT FOLDER
    one job; FOLDER takes what the processes leave
python tests/training/peers_job.py MODE,MODE,... TIMEOUT FOLDER
    several jobs at once, each under torchrun's agent and forked from this process, which imports
    torch only once; FOLDER/MODE/stderr is what the user sees, FOLDER/MODE/ended when it was over
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

sys.path.insert(0, str(Path(__file__).parents[2]))

from effdet import distributed
from effdet.errors import DataError, run
from effdet.training import Peers, report_to_launcher

BAD_STEP = 5
FOREVER = 1000


def misbehave(mode: str) -> None:
    """What happens to rank 1."""
    if mode == "raise":
        raise DataError("image 'a.jpg' is broken")
    if mode == "bug":
        raise KeyError("a bug of ours")
    if mode == "exit":
        os._exit(0)
    if mode == "leave":
        sys.exit(0)
    if mode == "sleep":
        time.sleep(FOREVER)
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while mode == "busy":
        pass


def train(peers: Peers, mode: str, folder: Path) -> None:
    value = torch.ones(8)
    for step in range(FOREVER if mode not in ("good", "slow") else 20):
        peers.beat(step, "training")
        if step == BAD_STEP:
            (folder / "bad").write_text(str(time.time()))
            if mode == "alone" or (mode == "scoring" and distributed.is_main()):
                peers.beat(step, "scoring")
                time.sleep(FOREVER)
            if mode == "slow" and distributed.is_main():
                for _ in range(14):
                    peers.beat(step, "scoring")
                    time.sleep(peers.timeout / 10)
            if distributed.rank() == 1:
                misbehave(mode)
        if distributed.is_initialized():
            dist.all_reduce(value, async_op=True).wait()
        time.sleep(0.05)


def job(mode: str, timeout: float, folder: Path) -> None:
    def end(text: str, code: int) -> None:
        (folder / f"status-{distributed.rank()}").write_text(f"{code} {text}")

    if mode == "common":
        raise DataError("no such folder: data")
    with distributed.process_group(torch.device("cpu")), Peers(timeout, on_end=end) as peers:
        try:
            train(peers, mode, folder)
        except RuntimeError as error:
            found = peers.blame(error)
            if found is None:
                raise
            end(str(found), found.exit_code)
            raise found from error


def main(mode: str, timeout: str, folder: str) -> None:
    # As in training: the launcher's SIGTERM alone does not end a process at once.
    signal.signal(signal.SIGTERM, lambda *_: None)
    run(lambda: job(mode, float(timeout), Path(folder)), "effdet", report_to_launcher)


def launch(mode: str, timeout: str, folder: Path) -> None:
    """One job under an agent of its own, in a process of its own."""
    folder.mkdir()
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=mode,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        monitor_interval=0.1,
        max_restarts=0,
    )
    code = 0
    try:
        elastic_launch(config, main)(mode, timeout, str(folder))
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        code = 1
    (folder / "ended").write_text(f"{code} {time.time()}")
    os._exit(code)


if __name__ == "__main__":
    modes, timeout, folder = sys.argv[1:]
    if distributed.is_launched() or modes == "alone":
        main(modes, timeout, folder)
    else:
        import torch._dynamo  # the agent imports it to log an error: seconds

        for mode in modes.split(","):
            if os.fork() == 0:
                launch(mode, timeout, Path(folder, mode))
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
