# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.boxes import encode_boxes
from effdet.config import ModelConfig, model_config
from effdet.inference import Detector
from effdet.levels import as_one_level
from effdet.structures import ClassMap

CLASS_MAP = ClassMap(("red thing", None, "blue thing"), (4, None, 9))
CONFIG = model_config("efficientdet_lite0", image_size=(96, 128), num_classes=3)


class ColorModel(nn.Module):
    """Finds what is pure red (class 0) or blue (class 2), without having learnt it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.batches: list[int] = []
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        assert not self.training
        self.batches.append(len(images))
        self.sizes.append((images.shape[2], images.shape[3]))
        anchors = build_anchors(self.config, self.sizes[-1])
        logits = torch.full((len(images), len(anchors), 3), -20.0)
        deltas = torch.zeros(len(images), len(anchors), 4)
        logits[..., 1] = -0.5  # the unnamed slot is always there
        for i, image in enumerate(images):
            for label, logit in ((0, 3.0), (2, 2.0)):
                rows, columns = (image[label] > image[1] + 1).nonzero().unbind(1)
                if len(rows):
                    box = torch.stack(
                        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    )
                    deltas[i, label] = encode_boxes(box, anchors[label])
                    logits[i, label, label] = logit
        return as_one_level(logits), as_one_level(deltas)


def picture(*boxes: tuple[str, tuple[int, int, int, int]], size: tuple[int, int]) -> Image.Image:
    """A gray picture of ``size`` = (width, height) with filled boxes."""
    image = Image.new("RGB", size, (120, 120, 120))
    for color, (x1, y1, x2, y2) in boxes:
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
    return image


@pytest.fixture
def detector() -> Detector:
    return Detector(ColorModel(CONFIG), CONFIG, CLASS_MAP)
