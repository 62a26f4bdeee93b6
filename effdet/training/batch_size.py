# SPDX-License-Identifier: Apache-2.0
"""The largest batch that a GPU holds, and what to change where one does not fit."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn

from effdet import distributed
from effdet.counts import counted
from effdet.errors import DeviceMemoryError, UsageError


def largest_batch(fits: Callable[[int], bool], *, first: int = 1, limit: int) -> int:
    """The largest number up to ``limit`` for which ``fits`` holds, 0 if there is none.

    It doubles ``first`` while it fits and halves what is left after that; ``fits`` is called once
    a number, about ``2 * log2(limit / first)`` times at most.
    """
    low, high, size = 0, limit + 1, first
    while size < high:
        if fits(size):
            low, size = size, min(2 * size, limit) if size < limit else high
        else:
            high = size
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def find_batch_size(
    try_step: Callable[[int], None],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    smallest: int,
    limit: int,
) -> int:
    """The batch size for ``--batch-size auto``, the same on every process.

    Up to 8 it is the largest that fits, above that a multiple of 8. Memory that the optimizer will
    take in its first step, and 1/32 of the GPU for what changes from step to step, are kept free.

    Args:
        try_step: does forward and backward with that many images of the largest size; without
            messages to other processes, which may be at another number.
        model: its buffers, gradients and mode, and the random generators, are put back after.
        optimizer: of the model; it does no step.
        device: a GPU.
        smallest: smallest batch size that the model can be trained with.
        limit: largest to try.

    Raises:
        UsageError: on a CPU, whose memory has no such end.
        DeviceMemoryError: where not even the smallest batch fits.
    """
    if device.type != "cuda":
        raise UsageError("--batch-size auto needs a GPU; give a number")
    reserve = missing_state_bytes(optimizer)
    reserve += torch.cuda.get_device_properties(device).total_memory // 32

    def try_with_reserve(size: int) -> None:
        reserved = torch.empty(reserve, dtype=torch.uint8, device=device)
        try_step(size)
        torch.cuda.synchronize(device)
        del reserved

    with unchanged(model, device):
        found = smallest_of_all(largest_that_fits(try_with_reserve, smallest, limit), device)
    if found == 0:
        raise DeviceMemoryError(
            f"a batch of {smallest} does not fit into the GPU's memory; give a smaller "
            "--image-size, a smaller --model or --amp"
        )
    return found


def largest_that_fits(try_step: Callable[[int], None], smallest: int, limit: int) -> int:
    """The largest size from ``smallest`` to ``limit`` that ``try_step`` has memory for, 0 if none.

    Above 8 only multiples of 8 are tried.
    """

    @functools.cache
    def fits(size: int) -> bool:
        if size < smallest:
            return False
        try:
            try_step(size)
        except torch.OutOfMemoryError:
            enough = False
        else:
            enough = True
        if not enough:  # only here has the error, whose traceback holds tensors, been let go
            gc.collect()
        torch.cuda.empty_cache()
        return enough

    found = largest_batch(fits, first=smallest, limit=min(limit, 8))
    if found < 8:
        return found
    return 8 * largest_batch(lambda eights: fits(8 * eights), limit=limit // 8)


def missing_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that ``optimizer`` will allocate in its first step."""
    tensors = 2 if isinstance(optimizer, torch.optim.AdamW) else 0  # SGD has its velocity already
    return sum(
        tensors * parameter.nbytes
        for group in optimizer.param_groups
        for parameter in group["params"]
        if not optimizer.state.get(parameter)
    )


@contextlib.contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back the buffers and modes of ``model`` and the generators of the CPU and ``device``.

    No gradients are left.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in modes:
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None


def smallest_of_all(number: int, device: torch.device) -> int:
    """The smallest ``number`` of all processes."""
    if not distributed.is_initialized():
        return number
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return int(value.item())


@contextlib.contextmanager
def explained_memory_errors(
    *,
    batch_size: int,
    accumulate: int,
    image_size: tuple[int, int],
    amp: bool,
    device: torch.device,
) -> Iterator[None]:
    """Around training steps; where one does not fit, the error says what to change.

    Args:
        batch_size: images a process and forward pass.
        accumulate: forward passes a step.
        image_size: ``(height, width)`` of the largest images, in pixels.
        amp: whether mixed precision is on.
        device: where the work is done.

    Raises:
        DeviceMemoryError: in the place of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise explain_out_of_memory(
            error,
            batch_size=batch_size,
            accumulate=accumulate,
            image_size=image_size,
            amp=amp,
            device=device,
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a GPU's or the machine's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def explain_out_of_memory(
    error: BaseException,
    *,
    batch_size: int,
    accumulate: int,
    image_size: tuple[int, int],
    amp: bool,
    device: torch.device,
) -> DeviceMemoryError:
    """One line that says what did not fit and what to change.

    Args as :func:`explained_memory_errors`, and ``error``, one that :func:`is_out_of_memory`.
    """
    height, width = image_size
    images = counted(batch_size, "image")
    room = "the machine's memory"
    if device.type == "cuda" and isinstance(error, torch.OutOfMemoryError):
        total = torch.cuda.get_device_properties(device).total_memory
        room = f"the {total / 2**30:.1f} GiB of {device}"
    advice = []
    if batch_size > 1:
        parts = next(n for n in range(2, batch_size + 1) if batch_size % n == 0)
        advice.append(
            f"--batch-size {batch_size // parts} --accumulate {accumulate * parts} "
            "(the same global batch)"
        )
    if device.type == "cuda":
        advice += ["--batch-size auto"] if batch_size > 1 else []
        advice += [] if amp else ["--amp"]
    advice.append("a smaller --image-size")
    return DeviceMemoryError(
        f"training on {images} of {height} x {width} pixels at once does not fit into {room}; "
        f"give {', '.join(advice[:-1])}{' or ' if len(advice) > 1 else ''}{advice[-1]}"
    )
