# SPDX-License-Identifier: Apache-2.0
"""Loss and gradients of the first step on ``world_size`` processes, written to a file.

torchrun --nproc-per-node N tests/first_step.py DATA GLOBAL_BATCH OUTPUT
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from effdet import distributed
from effdet.anchors import Anchors
from effdet.config import model_config
from effdet.data import CocoDataset, TrainTransform, build_train_loader, locate_split, read_split
from effdet.losses import DetectionLoss
from effdet.models import build_model
from effdet.precision import build_scaler
from effdet.training import Trainer, build_optimizer, build_schedule


def main(data: str, global_batch: int, output: str) -> None:
    """Compute and write."""
    config = model_config("efficientdet_d0", image_size=(96, 96), num_classes=2)
    files = locate_split(data, "train")
    loader = build_train_loader(
        CocoDataset(read_split(files), files.images),
        TrainTransform(config.image_size, config.mean, config.std),
        batch_size=global_batch // distributed.world_size(),
        seed=3,
    )
    torch.manual_seed(0)
    model = build_model(config)
    trainer = Trainer(
        model=distributed.wrap(model, torch.device("cpu")),
        criterion=DetectionLoss(Anchors(config)),
        optimizer=build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0),
        schedule=build_schedule(
            lr=0.1, warmup_lr=0.1, warmup_epochs=0, epochs=1, steps_per_epoch=1, global_batch=64
        ),
        scaler=build_scaler(torch.device("cpu"), None),
        ema=None,
        device=torch.device("cpu"),
        freeze_bn=True,
    )
    trainer.set_train_mode()
    loader.set_position(0)
    losses = trainer.backward([next(iter(loader))])
    loss = distributed.all_reduce_sum(losses["loss"].detach()) / distributed.world_size()
    if distributed.is_main():
        gradients = {name: p.grad for name, p in model.named_parameters()}
        torch.save({"loss": loss, "gradients": gradients}, output)


if __name__ == "__main__":
    with distributed.process_group(torch.device("cpu")):
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
