# SPDX-License-Identifier: Apache-2.0
"""How long does an update of the weight average take, against what PyTorch has for it?

The parameters and buffers of real models, D0 (3.9 million numbers in 784 tensors) and D7 (52
million in 1,818). Peers: ``torch._foreach_lerp_`` with a copy of the counters, on lists made
beforehand, and ``torch.optim.swa_utils.AveragedModel``. All run in this process in turn: the best
of several in CPU time on one thread, and by the clock on two.

    python benchmarks/ema.py

Writes benchmarks/results/ema.json.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import best_in_turn, write_result
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from effdet.config import model_config
from effdet.models import build_model
from effdet.ops.ema import ema_update_, joined_averages
from effdet.training import ModelEma

DECAY = 0.9998
MODELS = ("efficientdet_d0", "efficientdet_d7")


def main() -> None:
    """Measure both models on one and two threads, print a table and write the result."""
    rows = [measure(name, threads) for name in MODELS for threads in (1, 2)]
    write_result("ema", {"times_ms": rows})


def measure(name: str, threads: int) -> dict[str, Any]:
    """Times of one update in milliseconds, and how many times faster ours is."""
    torch.set_num_threads(threads)
    model = build_model(model_config(name))
    updates = {
        "ours": operator(model),
        "foreach_lerp": foreach_lerp(model),
        "model_ema": model_ema(model),
        "averaged_model": averaged_model(model),
    }
    # Time of the process is that of all its threads, so two are timed by the clock.
    clock = time.process_time if threads == 1 else time.perf_counter
    times = best_in_turn(updates, rounds=41, clock=clock)
    row = {
        "model": name,
        "numbers": sum(tensor.numel() for tensor in tensors_of(model)),
        "tensors": len(tensors_of(model)),
        "threads": threads,
        **{name: round(value, 3) for name, value in times.items()},
        "operator_times_faster_than_foreach_lerp": round(times["foreach_lerp"] / times["ours"], 2),
        "model_ema_times_faster_than_averaged_model": round(
            times["averaged_model"] / times["model_ema"], 2
        ),
    }
    print(row, flush=True)
    return row


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def operator(model: nn.Module) -> Callable[[], None]:
    """The operator on lists that are there, with joined averages as of :class:`ModelEma`."""
    values, updates = tensors_of(model), torch.zeros(2, dtype=torch.int64)
    averages = joined_averages(values)
    return lambda: ema_update_(averages, values, updates, decay=DECAY, joined=True)


def foreach_lerp(model: nn.Module) -> Callable[[], None]:
    """The same work by PyTorch: floats averaged, integers copied, decay known."""
    values = tensors_of(model)
    averages = [tensor.clone() for tensor in values]
    pairs = list(zip(averages, values))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]
    mine, theirs = [a for a, _ in floats], [v for _, v in floats]
    counted, counts = [a for a, _ in counters], [v for _, v in counters]

    def update() -> None:
        torch._foreach_lerp_(mine, theirs, 1 - DECAY)
        torch._foreach_copy_(counted, counts)

    return update


def model_ema(model: nn.Module) -> Callable[[], None]:
    """What a training step calls: finds the model's tensors too."""
    ema = ModelEma(model, DECAY)
    return lambda: ema.update(model)


def averaged_model(model: nn.Module) -> Callable[[], None]:
    """PyTorch's own averaged model."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    return lambda: averaged.update_parameters(model)


if __name__ == "__main__":
    main()
