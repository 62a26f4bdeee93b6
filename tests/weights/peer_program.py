# SPDX-License-Identifier: Apache-2.0
"""Runs in an environment of other programs, apart from this toolkit, whose name one of them has.

    python peer_program.py PACKAGE MODEL CASE.pt OUTPUTS.pt

Builds the package's model, loads weights under its own names, every one of them, and writes what it
makes of the images in evaluation mode.
"""

import importlib.metadata
import sys
from typing import Any

import torch
from torch import Tensor, nn

DISTRIBUTIONS = {
    "timm": "timm",
    "torchvision": "torchvision",
    "efficientnet_pytorch": "efficientnet-pytorch",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "effdet": "effdet",
}


def build(package: str, name: str, size: tuple[int, int]) -> nn.Module:
    """The model without weights; ``size`` (height, width) matters to detectors alone."""
    if package == "timm":
        import timm

        return timm.create_model(name)
    if package == "torchvision":
        import torchvision

        return getattr(torchvision.models, name)()
    if package == "efficientnet_pytorch":
        import efficientnet_pytorch

        return efficientnet_pytorch.EfficientNet.from_name(name)
    if package == "efficientnet_lite_pytorch":
        import efficientnet_lite_pytorch

        return efficientnet_lite_pytorch.EfficientNet.from_name(name)
    import effdet

    config = effdet.get_efficientdet_config(name)
    config.image_size = size
    return effdet.EfficientDet(config, pretrained_backbone=False)


@torch.no_grad()
def outputs(package: str, name: str, state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Logits, or of detectors the class and then the box outputs, finest level first."""
    height, width = images.shape[-2:]
    model = build(package, name, (height, width)).eval()
    model.load_state_dict(state)
    found: Any = model(images)
    return [found] if isinstance(found, Tensor) else [x for levels in found for x in levels]


def main() -> None:
    """Read the case, write the outputs and what gave them."""
    package, name, source, target = sys.argv[1:]
    case = torch.load(source)
    version = importlib.metadata.version(DISTRIBUTIONS[package])
    result = {
        "program": f"{DISTRIBUTIONS[package]} {version}",
        "outputs": outputs(package, name, case["state"], case["images"]),
    }
    torch.save(result, target)


if __name__ == "__main__":
    main()
