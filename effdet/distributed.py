# SPDX-License-Identifier: Apache-2.0
"""One process or many: everything that knows about ranks."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # of C++
from torch.distributed.rendezvous import rendezvous

from effdet.cpus import usable_cpus
from effdet.errors import DivergedError, PeerError, SignalError, UsageError


def is_launched() -> bool:
    """Whether torchrun (or the like) started this process as one of a group."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def check_environment() -> None:
    """See that what torchrun tells each of its processes is there and can be true.

    Raises:
        UsageError: naming the variable.
    """
    for name, smallest in (("WORLD_SIZE", 1), ("RANK", 0), ("MASTER_PORT", 0)):
        text = os.environ.get(name, "")
        if not text.isdecimal() or int(text) < smallest:
            raise UsageError(
                f"the environment variable {name} must be a whole number, found {text!r}; "
                "start several processes with torchrun"
            )
    if not os.environ.get("MASTER_ADDR"):
        raise UsageError(
            "RANK and WORLD_SIZE are set but not MASTER_ADDR; start several processes with "
            "torchrun, or unset them for one"
        )
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank >= world:
        raise UsageError(f"RANK must be below WORLD_SIZE, found {rank} and {world}")


def is_initialized() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """The number of processes, 1 when alone."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def pick_device(name: str | None = None) -> torch.device:
    """The device to work on: ``name`` if given, else this process's GPU, else the CPU."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"unknown device {name!r}: expected cpu, cuda or cuda:N")
    if device.type == "cuda":
        if device.index is not None and _local_processes() > 1:
            raise UsageError(
                f"device {name!r} would put all processes on one GPU; give --device cuda"
            )
        if not torch.cuda.is_available():
            raise UsageError(f"device {name!r} was asked for but torch sees no CUDA GPU")
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise UsageError(
                f"device cuda:{index} was asked for but there are {torch.cuda.device_count()} GPUs"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


_host: Any = None  # the group of the hosts
_start: str | None = None  # see start_name


@contextmanager
def process_group(device: torch.device, timeout: float = 1800.0) -> Iterator[None]:
    """The group torchrun asked for: NCCL on GPUs, gloo on CPUs; nothing for a single process.

    A second group, always gloo, carries what the hosts say to each other without the GPUs.

    Args:
        device: where this process works.
        timeout: seconds after which waiting for another process is an error.
    """
    global _host, _start
    if not is_launched():
        yield
        return
    check_environment()
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store, own_rank, processes = next(
            iter(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        )
        _start = _name_start(store, own_rank, processes, timeout)
        dist.init_process_group(
            backend,
            store=PrefixStore(_start, store),
            rank=own_rank,
            world_size=processes,
            timeout=timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        if isinstance(error, PeerError):
            raise
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = (str(error).splitlines() or [""])[0]
        raise PeerError(f"no group with the other processes at {where}: {reason}") from error
    _host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
    try:
        yield
    except Exception as error:
        # Where one process failed, waiting for the others may never end; these fail together.
        if isinstance(error, SignalError | DivergedError):
            dist.destroy_process_group()
        raise
    _host = None
    dist.destroy_process_group()


def start_name() -> str | None:
    """What this start of all processes has as its own name, also after its group; None before."""
    return _start


def _name_start(store: Store, own_rank: int, processes: int, timeout: float) -> str:
    """A name that this start of all processes has to itself, the same on each.

    torchrun may keep its store when it restarts the processes, and they must not find the addresses
    of those before them. Its count of restarts is no such name: each node has its own.
    """
    own = uuid.uuid4().hex
    if own_rank:
        store.set(f"effdet/hello/{own_rank}", own)
        name = str(store.get(f"effdet/name/{own}").decode())
        store.add(f"effdet/heard/{name}", 1)
        return name
    deadline = time.monotonic() + timeout
    # A hello may be one of an earlier start: it is answered too, and nobody hears it.
    while store.add(f"effdet/heard/{own}", 0) < processes - 1:
        for other in range(1, processes):
            if store.check([f"effdet/hello/{other}"]):
                hello = store.get(f"effdet/hello/{other}").decode()
                store.set(f"effdet/name/{hello}", own)
        if time.monotonic() > deadline:
            raise PeerError(f"not all of the {processes} processes have started in {timeout:g} s")
        time.sleep(0.02)
    return own


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` with averaged gradients over all processes; itself when alone.

    Gradients are views of the buckets they travel in, so there is one copy of them. All parameters
    are used in every step, so nothing looks for unused ones, which is what a static graph saves.
    """
    if not is_initialized():
        return model
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


class HostMaximum:
    """The largest of every process's numbers, gathered while the work goes on.

    Args:
        size: how many numbers.
    """

    def __init__(self, size: int) -> None:
        self._values = torch.zeros(size, dtype=torch.int64)
        self._work: dist.Work | None = None

    def exchange(self, values: Sequence[int]) -> list[int]:
        """Hand in ``values`` and get the maxima of what all handed in at the call before.

        Every process must call it equally often. Alone, the maxima are those of this call.
        """
        if not is_initialized():
            return list(values)
        maxima = self.finish()
        self._values = torch.tensor(values, dtype=torch.int64)
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, group=_host, async_op=True)
        return maxima

    def finish(self) -> list[int]:
        """The maxima of the last exchange, with nothing left on the way."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return [int(value) for value in self._values.tolist()]


def num_workers(wanted: int | None) -> int:
    """Loader workers of this process: ``wanted``, else its share of the CPUs, at most 8."""
    if wanted is not None:
        return wanted
    return min(usable_cpus() // _local_processes(), 8)


def _local_processes() -> int:
    """Processes of the group on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@torch.no_grad()
def synchronize_buffers(model: nn.Module) -> None:
    """Take the main process's batch-norm statistics; the parameters are equal on all anyway."""
    if is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of ``value`` over all processes (a new tensor; gradients do not pass)."""
    if not is_initialized():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def gather_to_main(value: Any) -> list[Any] | None:
    """Every process's ``value`` in rank order on the main process, None on the others."""
    if not is_initialized():
        return [value]
    gathered: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, gathered, group=_host)
    return gathered


def broadcast_from_main(value: Any) -> Any:
    """The main process's ``value`` on every process."""
    if not is_initialized():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, group=_host)
    return holder[0]
