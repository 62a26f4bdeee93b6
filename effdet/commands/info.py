# SPDX-License-Identifier: Apache-2.0
"""``effdet info``."""

import json
from pathlib import Path
from typing import Any

import torch

from effdet import flags
from effdet.anchors import num_anchors
from effdet.config import MODELS, ModelConfig
from effdet.export import is_exported
from effdet.export.describe import describe_exported
from effdet.models import EfficientDet, multiply_adds, trainable_parameters
from effdet.names import say
from effdet.ops import build_info
from effdet.settings import InfoConfig
from effdet.weights.describe import describe_weights, format_weights

DESCRIPTION = "Show what weights or exported files are, the models, or with --build the kernels."


def run(argv: list[str]) -> None:
    """``effdet info``."""
    config = flags.parse(InfoConfig, argv, program="effdet info", description=DESCRIPTION)
    if config.files:
        found = [_describe_file(Path(name)) for name in config.files]
        as_text = "\n\n".join(map(format_weights, found))
        say(json.dumps(found, indent=1) if config.json else as_text)
        return
    if config.build:
        print(_format_build(build_info(), config.json))
        return
    if config.json:
        print(json.dumps([describe(model) for model in MODELS.values()], indent=1))
        return
    print(_HEADER)
    for model in MODELS.values():
        print(_format_model(describe(model)), flush=True)  # each takes a moment
    print("\nParameters for 90 classes; multiply-adds of convolutions.")


def _describe_file(path: Path) -> dict[str, Any]:
    return describe_exported(path) if is_exported(path) else describe_weights(path)


def describe(config: ModelConfig) -> dict[str, Any]:
    """Figures of a model: parameters, multiply-adds of its convolutions, anchors and input."""
    with torch.device("meta"):
        model = EfficientDet(config).eval()
        image = torch.empty(1, 3, *config.image_size)
    return {
        "name": config.name,
        "backbone": config.backbone,
        "image_size": list(config.image_size),
        "parameters": trainable_parameters(model),
        "multiply_adds": multiply_adds(model, image),
        "anchors": num_anchors(config),
        "num_classes": config.num_classes,
    }


_HEADER = (
    f"{'name':<20} {'backbone':<19} {'image size':>11} {'parameters':>12} {'multiply-adds':>15} "
    f"{'anchors':>9}"
)


def _format_model(model: dict[str, Any]) -> str:
    size = " x ".join(map(str, model["image_size"]))
    return (
        f"{model['name']:<20} {model['backbone']:<19} {size:>11} {model['parameters']:>12,} "
        f"{model['multiply_adds'] / 1e9:>13.3f} G {model['anchors']:>9,}"
    )


def _format_build(build: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(build, indent=1)
    return "\n".join(f"{key:<14} {value}" for key, value in build.items())
