# SPDX-License-Identifier: Apache-2.0
"""Losses of 20 optimizer steps with the parts of train.py on any number of processes.

torchrun --nproc-per-node N tests/twenty_steps.py DATA CASES OUTPUT

CASES: JSON, names and the settings of each that differ from :data:`SETTINGS`; ``steps`` are others
than 20, ``boxes_on`` are the ranks whose images have boxes, ``frozen`` is a part that learns from
the third epoch on. OUTPUT: JSON, the mean losses over the processes of every step, whether the
weights are the same on all, and how many gradients were sent in the first epoch and in the last.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

import train
from effdet import distributed
from effdet.anchors import Anchors
from effdet.data import Loader
from effdet.models import build_model
from effdet.settings import TrainConfig
from effdet.structures import Batch
from effdet.training import Meter, Trainer, train_one_epoch
from tests.tiny import tiny_model

CPU, STEPS, GLOBAL_BATCH = torch.device("cpu"), 20, 8
SETTINGS: dict[str, Any] = {
    "model": "still", "freeze_bn": True, "epochs": 10, "warmup_epochs": 1, "lr": 0.08, "workers": 0,
}  # fmt: skip


def build(data: str, case: Mapping[str, Any]) -> tuple[Trainer, Loader]:
    """As train.py does it, with a global batch of 8."""
    settings = {**SETTINGS, **case, "data": data}
    for name in ("boxes_on", "steps", "frozen"):
        settings.pop(name, None)
    accumulate = settings.setdefault("accumulate", 1)
    settings["batch_size"] = GLOBAL_BATCH // (distributed.world_size() * accumulate)
    config = TrainConfig(**settings)
    torch.manual_seed(config.seed)
    train_set, val_set, *_ = train.build_datasets(config)
    model_config = config.model_config(len(train_set.class_map))
    sizes = train.image_sizes(config, model_config)
    model = build_model(model_config)
    loader, _ = train.build_loaders(config, model_config, sizes, train_set, val_set, CPU)
    steps_per_epoch = len(train_set) // GLOBAL_BATCH
    return train.build_trainer(
        config, model, Anchors(model_config, CPU), steps_per_epoch, CPU
    ), loader


def run(data: str, case: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of one case."""
    trainer, loader = build(data, case)
    losses: list[float] = []
    sent: list[int] = []
    every = [name for name, _ in trainer.bare_model.named_parameters()]
    part = [name for name in every if name.startswith(case.get("frozen", "none"))]
    has_boxes = distributed.rank() in case.get("boxes_on", range(distributed.world_size()))
    steps, epoch = case.get("steps", STEPS), 0
    while len(losses) < steps:
        epoch += 1
        trainer.freeze(part if epoch < 3 else [])
        loader.set_position(epoch)
        train_one_epoch(
            trainer,
            loader if has_boxes else without_boxes(loader),
            Meter(),
            accumulate=case.get("accumulate", 1),
            log_every=1,
            report=lambda step, values: losses.append(values["loss"]),
        )
        sent.append(tensors_sent(trainer))
    parameters = [p.detach() for p in trainer.bare_model.parameters()]
    total = sum((p.double().abs().sum() for p in parameters), torch.zeros((), dtype=torch.float64))
    totals = distributed.gather_to_main(total.item())
    skipped, _ = trainer.skipped
    return {
        "losses": losses[:steps],
        "equal": totals is not None and len(set(totals)) == 1,
        "skipped": skipped,
        "sent": [sent[0], sent[-1]],
    }


def tensors_sent(trainer: Trainer) -> int:
    """Gradients that go between processes in a step."""
    if not isinstance(trainer.model, DistributedDataParallel):
        return 0
    found: int = trainer.model._get_ddp_logging_data()["num_parameter_tensors"]
    return found


def without_boxes(batches: Loader) -> Iterator[Batch]:
    """The images, with nothing on them to find."""
    for batch in batches:
        yield Batch(
            images=batch.images,
            targets=[
                dataclasses.replace(t, boxes=t.boxes[:0], labels=t.labels[:0], crowd=t.crowd[:0])
                for t in batch.targets
            ],
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.process_group(CPU), tiny_model():
        cases = json.loads(sys.argv[2])
        found = {name: run(sys.argv[1], case) for name, case in cases.items()}
        if distributed.is_main():
            Path(sys.argv[3]).write_text(json.dumps(found))
