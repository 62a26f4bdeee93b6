# SPDX-License-Identifier: Apache-2.0
"""What do logging, the weight average and clipping cost of a training step?

A D0 step at 512 x 512 pixels with 8 images, on the CPU: forward, loss, backward, optimizer. Beside
it the parts around it, as they are called in a run: the meter, the report of every 20th step (a
20th of it a step), the progress line, the sign of life, the poll for signals, the update of the
average, and the clipping of the gradients. Step and parts take turns in this process.

    python benchmarks/step_overhead.py

Writes benchmarks/results/step_overhead.json.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import best_in_turn, write_result
from torch import Tensor, nn

from effdet.anchors import Anchors
from effdet.config import model_config
from effdet.losses import DetectionLoss
from effdet.metrics import RunLog
from effdet.models import build_model
from effdet.precision import build_scaler
from effdet.structures import Batch, Target
from effdet.training import Control, Meter, ModelEma, Peers, Trainer, build_optimizer
from effdet.training.optimizer import step_unless
from effdet.training.schedule import CosineSchedule

CPU, SIDE, BATCH, LOG_EVERY, LIMIT = torch.device("cpu"), 512, 8, 20, 0.03


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        subjects = build_subjects(folder, stack)
        # Time of the process is that of all its threads, so two are timed by the clock.
        clock = time.process_time if arguments.threads == 1 else time.perf_counter
        times = best_in_turn(subjects, rounds=arguments.rounds, clock=clock)
    step, parts = times.pop("step"), times
    parts["report"] /= LOG_EVERY
    total = sum(parts.values())
    figures = {
        "model": "efficientdet_d0",
        "image_size": SIDE,
        "batch_size": BATCH,
        "rounds": arguments.rounds,
        "step_ms": round(step, 1),
        "parts_ms": {name: round(value, 4) for name, value in parts.items()},
        "share_of_a_step": round(total / step, 5),
        "limit": LIMIT,
    }
    print(figures)
    write_result("step_overhead", figures)
    if total / step >= LIMIT:
        raise SystemExit(f"{100 * total / step:.1f} % of a step, must be below {100 * LIMIT:g} %")


def build_subjects(folder: Path, stack: contextlib.ExitStack) -> dict[str, Callable[[], object]]:
    """A bare step, and everything that a run does around it."""
    torch.manual_seed(0)
    config = model_config("efficientdet_d0", image_size=(SIDE, SIDE))
    model = build_model(config, channels_last=True)
    trainer = Trainer(
        model=model,
        criterion=DetectionLoss(Anchors(config, CPU)),
        optimizer=build_optimizer(model, lr=1e-4, momentum=0.9, weight_decay=4e-5),
        schedule=CosineSchedule(lr=1e-4, warmup_lr=1e-4, warmup_steps=0, total_steps=10_000),
        scaler=build_scaler(CPU, None),
        ema=None,
        device=CPU,
    )
    trainer.set_train_mode()
    ema = ModelEma(model, 0.9998)
    batch, never = make_batch(), torch.zeros(())
    not_skipped = torch.zeros((), dtype=torch.bool)
    values: dict[str, Tensor] = {}

    def step() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        values.update(trainer.backward([batch]))
        step_unless(trainer.optimizer, never)

    step()
    values["grad_norm"] = torch.ones(())
    meter = Meter()
    log = stack.enter_context(RunLog(folder, epochs=1, steps_per_epoch=1000, console="lines"))
    log.begin_epoch(1)
    peers = stack.enter_context(Peers(600.0))
    control = stack.enter_context(Control(15.0))

    def clip() -> None:
        norm = nn.utils.clip_grad_norm_(model.parameters(), trainer.clip_norm)
        norm.isfinite().logical_not()

    def beats() -> None:
        for phase in ("loading data", "training", "training"):
            peers.beat(meter.steps, phase)

    def report() -> None:
        meter.add(values, not_skipped, BATCH, 0.0)  # a report needs a step since the last
        trainer.check()
        log.step(meter.steps, meter.report() | {"lr": trainer.schedule(trainer.step)})

    return {
        "step": step,
        "clipping": clip,
        "average": lambda: ema.update(model, never),
        "meter": lambda: meter.add(values, not_skipped, BATCH, 0.0),
        "report": report,
        "progress line": lambda: log.tick(meter.steps),
        "sign of life": beats,
        "poll": control.poll,
    }


def make_batch() -> Batch:
    """Noise with ten boxes an image."""
    draws = torch.Generator().manual_seed(0)
    corners = torch.rand(BATCH, 10, 2, generator=draws) * (SIDE - 120)
    boxes = torch.cat([corners, corners + 20 + 100 * torch.rand(BATCH, 10, 2, generator=draws)], 2)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=draws)
    targets = [
        Target(
            boxes=boxes[i],
            labels=torch.arange(10),
            crowd=torch.zeros(10, dtype=torch.bool),
            image_id=i,
            scale=1.0,
            size=(SIDE, SIDE),
        )
        for i in range(BATCH)
    ]
    return Batch(images=images.contiguous(memory_format=torch.channels_last), targets=targets)


if __name__ == "__main__":
    main()
