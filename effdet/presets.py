# SPDX-License-Identifier: Apache-2.0
"""Named sets of training settings, for ``train.py --preset NAME``.

``demo``: the built-in set from random weights on two CPU cores.
    ``python train.py --preset demo --output runs/demo``

``finetune``: a small set of your own from ImageNet backbone weights.
    ``python train.py --preset finetune --data DIR --backbone-weights FILE --output runs/mine``
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "data": "shapes",
        "model": "efficientdet_lite0",
        "image_size": (128,),
        "epochs": 30,
        "batch_size": 16,
        "lr": 0.16,
        "warmup_epochs": 2.0,
        "ema_decay": 0.998,
        "jitter_min": 0.8,
        "jitter_max": 1.25,
        "eval_every": 10,
    },
    "finetune": {
        "epochs": 30,
        "batch_size": 8,
        "lr": 0.08,
        "ema_decay": 0.998,
        "jitter_min": 0.5,
        "jitter_max": 1.5,
        "eval_every": 5,
    },
}
