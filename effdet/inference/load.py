# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a detector."""

from pathlib import Path

from effdet.distributed import pick_device
from effdet.inference.predict import Detector
from effdet.weights import load_checkpoint, load_model


def load(weights: str | Path, *, device: str | None = None, use_ema: bool = True) -> Detector:
    """The detector in a checkpoint, ready to predict.

    Args:
        weights: a file such as ``runs/mine/best.pt``.
        device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU if there is one where not given.
        use_ema: take the averaged weights where the file has them.

    Raises:
        WeightsError: where the file is missing, damaged or no checkpoint of this toolkit.
    """
    checkpoint = load_checkpoint(weights)
    model = load_model(checkpoint, weights, use_ema=use_ema)
    return Detector(model.to(pick_device(device)), checkpoint.model_config, checkpoint.class_map)
