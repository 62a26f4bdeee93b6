# SPDX-License-Identifier: Apache-2.0
"""Start a model from other weights, and say what was taken."""

from pathlib import Path

from effdet.config import ModelConfig
from effdet.errors import WeightsError
from effdet.models import EfficientDet
from effdet.structures import ClassMap
from effdet.weights import lukemelas
from effdet.weights.checkpoint import load_checkpoint, load_state, read_tensors


def load_backbone(model: EfficientDet, path: str | Path) -> str:
    """Fill the backbone of ``model`` from an ImageNet classifier; one line says what was done.

    Raises:
        WeightsError: where the file is not a known classifier or of another size.
    """
    tensors = read_tensors(path)
    if not isinstance(tensors, dict) or lukemelas.MARK not in tensors:
        raise WeightsError(
            f"{path}: not a classifier this toolkit knows; expected an efficientnet-pytorch or "
            "efficientnet-lite-pytorch file (a checkpoint of this toolkit goes to --weights)"
        )
    ours = {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    foreign = lukemelas.unused_in_backbone(ours, tensors)
    if foreign:
        raise WeightsError(
            f"{path}: weights of another model than {model.config.backbone}: it holds {foreign[0]}"
        )
    # Old files have no step counters; ours are not used either.
    state = {name: tensor for name, tensor in ours.items() if name.endswith("num_batches_tracked")}
    state |= lukemelas.state_dict(ours, tensors)
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    load_state(model.backbone, state, path)
    return f"{path}: backbone taken whole ({len(state)} tensors); BiFPN and heads are new"


def load_detector_weights(model: EfficientDet, class_map: ClassMap, path: str | Path) -> str:
    """Fill ``model`` from a checkpoint; with other classes the last class layer stays new.

    Returns:
        One line that says what was taken.

    Raises:
        WeightsError: where the checkpoint is of another architecture.
    """
    checkpoint = load_checkpoint(path)
    _check_same_graph(checkpoint.model_config, model.config, path)
    state = dict(checkpoint.best_weights())
    if checkpoint.class_map == class_map:
        load_state(model, state, path)
        return f"{path}: all weights taken ({len(state)} tensors)"
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith("class_head.predict.")}
    load_state(model, state | fresh, path)
    return (
        f"{path}: weights taken but for the last class layer, which is new: the file has "
        f"{len(checkpoint.class_map)} classes, the data {len(class_map)}, and they are not the same"
    )


def _check_same_graph(found: ModelConfig, wanted: ModelConfig, path: str | Path) -> None:
    """Refuse weights whose graph differs; image size and classes may."""
    for field in ("name", "padding", "fusion"):
        have, want = getattr(found, field), getattr(wanted, field)
        if have != want:
            flag = "--model" if field == "name" else f"--{field}"
            raise WeightsError(
                f"{path}: holds a model with {field} {have}, not {want}; give {flag} {have} or "
                "other weights"
            )
