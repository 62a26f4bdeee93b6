# SPDX-License-Identifier: Apache-2.0
"""Named sets of training settings, for ``train.py --preset NAME``.

``demo``: the built-in set from random weights.
    ``python train.py --preset demo --output runs/demo``
    Two CPU cores: 7 minutes, AP 0.721 (benchmarks/results/demo_shapes.json).

``finetune``: a small set of your own from ImageNet backbone weights or, with ``--weights``, from a
    detector.
    ``python train.py --preset finetune --data DIR --backbone-weights FILE --output runs/mine``
    205 images, two CPU cores, with ``--epochs 24 --batch-size 4 --lr 0.016 --warmup-lr 0.0016``:
    32 minutes, AP50 0.84 (benchmarks/results/bccd_lite0.json).
    One phase, nothing frozen: AdamW at 0.001 for 8 images a step. ``--freeze``, ``--freeze-epochs``
    and ``--lr-factors`` hold parts back; docs/finetuning.md says what that is worth.

``paper``: google/automl's recipe for COCO and D0 to D6: 300 epochs, a global batch of 128 images,
    batch norm over all processes. Eight processes of 16 images:
    ``torchrun --nproc-per-node 8 train.py --preset paper --amp --data COCO --backbone-weights FILE
    --output runs/d0 --model efficientdet_d0``
    On fewer GPUs, or where 16 images do not fit, keep the product of processes, ``--batch-size``
    and ``--accumulate`` at 128. The reference published these AP on COCO val2017, from 32 TPU
    cores: D0 34.3, D1 40.2, D2 43.5, D3 46.8, D4 49.3, D5 51.2, D6 52.1; users of it report 33.1
    to 33.4 for D0 on eight GPUs. Times were not published. Not measured by this project.

``paper_d7``: the same for D7, and with ``--model efficientdet_d7x`` for D7x: 600 epochs; four
    images a forward pass, whose batch norm is over 32 images of the eight processes.
    ``torchrun --nproc-per-node 8 train.py --preset paper_d7 --amp --data COCO
    --backbone-weights FILE --output runs/d7``
    Published by the reference: D7 53.4, D7x 54.4 AP. Not measured by this project.

``nvidia``: NVIDIA's recipe for D0 on eight A100 of 80 GB: 310 epochs at a global batch of 1200,
    float16, learning rates by epoch with noise, averaged weights validated from epoch 200 on.
    ``torchrun --nproc-per-node 8 train.py --preset nvidia --data COCO --backbone-weights FILE
    --output runs/d0``
    Published by NVIDIA: 34.07 AP in 6.5 hours without validations; 33.8 to 34.4 over five seeds.
    Not measured by this project. It differs from theirs in three ways: images without boxes are
    trained on and validated (theirs is scored on about 4,952 of the 5,000 images); the decay of the
    average rises to 0.999 where theirs is constant; the classes are not padded to 96.
"""

from typing import Any

from effdet.settings.train_options import USUAL_LR

_NVIDIA_SCALE = 64 / 1200
"""From rates at NVIDIA's global batch to rates at the one that --lr is given for."""

_PAPER: dict[str, Any] = {
    "schedule": "automl",
    "epochs": 300,
    "batch_size": 16,
    "sync_bn": "all",
    "eval_every": 5,
    "eval_weights": "ema",
}

ABOUT = {
    "demo": "the built-in set, minutes on a CPU",
    "finetune": "your own small set, from --weights or --backbone-weights",
    "nvidia": "NVIDIA's recipe for D0 on COCO, eight GPUs",
    "paper": "the published recipe for COCO, D0 to D6, 300 epochs",
    "paper_d7": "the same for D7 and D7x, 600 epochs",
}
"""A line on each for ``--help``."""

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "data": "shapes",
        "model": "efficientdet_lite0",
        "image_size": (128,),
        "epochs": 15,
        "batch_size": 8,
        "optimizer": "adamw",
        "lr": 0.016,
        "warmup_lr": 0.0016,
        "ema_decay": 0.99,
        "jitter_min": 0.7,
        "jitter_max": 1.4,
        "eval_every": 5,
    },
    "finetune": {
        "epochs": 40,
        "batch_size": 8,
        "optimizer": "adamw",
        "lr": USUAL_LR["adamw"],
        "warmup_lr": 0.0008,
        "ema_decay": 0.998,
        "jitter_min": 0.5,
        "jitter_max": 1.5,
        "eval_every": 5,
    },
    "paper": _PAPER,
    "paper_d7": _PAPER
    | {"model": "efficientdet_d7", "epochs": 600, "batch_size": 4, "accumulate": 4},
    "nvidia": {
        "model": "efficientdet_d0",
        "padding": "symmetric",
        "survival_prob": 0.8,
        "amp": True,
        "schedule": "nvidia",
        "epochs": 300,
        "cooldown_epochs": 10,
        "batch_size": 150,
        "sync_bn": "all",
        "normalizer": "process",
        "lr": 1.63 * _NVIDIA_SCALE,
        "warmup_lr": 1e-4 * _NVIDIA_SCALE,
        "min_lr": 1e-5 * _NVIDIA_SCALE,
        "warmup_epochs": 50.0,
        "lr_noise": (0.4, 0.9),
        "seed": 12711,
        "ema_decay": 0.999,
        "eval_from": 200,
        "eval_weights": "ema",
        "save_every": 10,
    },
}
