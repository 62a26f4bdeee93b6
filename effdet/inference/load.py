# SPDX-License-Identifier: Apache-2.0
"""From weights to a detector."""

from pathlib import Path

from effdet.distributed import pick_device
from effdet.inference.predict import Detector
from effdet.weights import load_detector, load_model


def load(weights: str | Path, *, device: str | None = None, use_ema: bool = True) -> Detector:
    """The detector in a weights file, ready to predict.

    Args:
        weights: a file such as ``runs/mine/best.pt``, one of another program that this toolkit
            reads, or the name of a public release (see ``effdet download --list``), which is
            fetched unless it was before.
        device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU if there is one where not given.
        use_ema: take the averaged weights where the file has them.

    Raises:
        WeightsError: where the file is missing, damaged or holds no model of this toolkit.
        UsageError: for an unknown name.
    """
    checkpoint = load_detector(weights, use_ema=use_ema)
    model = load_model(checkpoint, weights, use_ema=use_ema)
    return Detector(model.to(pick_device(device)), checkpoint.model_config, checkpoint.class_map)
