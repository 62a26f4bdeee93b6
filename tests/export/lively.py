# SPDX-License-Identifier: Apache-2.0
"""Weights that nobody trained, but with outputs as various as those of a trained detector.

Fresh weights score everything alike: there each detection would be a tie.
"""

from pathlib import Path

import torch
from torch import nn

from effdet.config import ModelConfig
from effdet.data.shapes import draw
from effdet.data.transforms import letterbox
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, save_checkpoint

CLASS_MAP = ClassMap(("cat", None, "dog"), (3, None, 7))


def pictures(config: ModelConfig, count: int) -> torch.Tensor:
    """Network inputs ``[count, 3, H, W]`` of drawn pictures."""
    pixels = [torch.from_numpy(draw("val", i).pixels).permute(2, 0, 1) for i in range(count)]
    return torch.stack(
        [letterbox(p, config.image_size, config.mean, config.std)[0] for p in pixels]
    )


@torch.no_grad()
def save_lively(config: ModelConfig, path: Path) -> Path:
    """A checkpoint of three class outputs, the second without a class."""
    torch.manual_seed(0)
    model = build_model(config)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(pictures(config, 48))  # statistics of real activations
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    for head, number, spread, bias in (
        (model.class_head, 0, 1.5, -3.0),
        (model.box_head, 1, 0.3, 0),
    ):
        values = torch.cat([x.flatten() for x in model(pictures(config, 48))[number]])
        head.predict.pointwise.weight.mul_(spread / values.std())
        head.predict.pointwise.bias.fill_(bias)
    checkpoint = Checkpoint(
        model_config=config,
        class_map=CLASS_MAP,
        model=model.state_dict(),
        ema=None,
        metrics={},
        training={},
        licence="CC0-1.0",
        origin="nowhere",
    )
    save_checkpoint(checkpoint, path)
    return path
