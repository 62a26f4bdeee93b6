# SPDX-License-Identifier: Apache-2.0
"""Named sets of training settings, for ``train.py --preset NAME``.

``demo``: the built-in set from random weights.
    ``python train.py --preset demo --output runs/demo``
    Two CPU cores: 7 minutes, AP 0.65 (benchmarks/results/demo_shapes.json).

``finetune``: a small set of your own from ImageNet backbone weights.
    ``python train.py --preset finetune --data DIR --backbone-weights FILE --output runs/mine``
    205 images, two CPU cores, with ``--epochs 24 --batch-size 4 --lr 0.016 --warmup-lr 0.0016``:
    32 minutes, AP50 0.84 (benchmarks/results/bccd_lite0.json).

``paper``: google/automl's recipe for COCO, eight processes of 16 images; not measured. Batch norm
    is over each process's images, where the reference's is over all of a group.
    ``torchrun --nproc-per-node 8 train.py --preset paper --amp --data COCO --output runs/d0``
"""

from typing import Any

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
        "lr": 0.008,
        "warmup_lr": 0.0008,
        "ema_decay": 0.998,
        "jitter_min": 0.5,
        "jitter_max": 1.5,
        "eval_every": 5,
    },
    "paper": {
        "schedule": "automl",
        "epochs": 300,
        "batch_size": 16,
    },
}
