# SPDX-License-Identifier: Apache-2.0
"""Pictures of the batches that are trained on, as the model sees them."""

import math

import torch
from PIL import Image
from torch import Tensor

from effdet.config import ModelConfig
from effdet.drawing import class_color, draw_boxes, to_picture
from effdet.names import shown_name
from effdet.structures import Batch, ClassMap, Target

MOST_IMAGES = 16
SIDES = 256, 384
"""Pixels that the longer side of an image has at least and at most in the picture of its batch."""
GAP = 4
_GROUND = (128, 128, 128)


def draw_batch(batch: Batch, model_config: ModelConfig, class_map: ClassMap) -> Image.Image:
    """The first images of a batch with their boxes, side by side.

    Args:
        batch: augmented and normalised; it is only read.
        model_config: how it was normalised.
        class_map: names of its labels.
    """
    count = min(len(batch), MOST_IMAGES)
    pictures = [
        _draw(batch.images[i], batch.targets[i], model_config, class_map) for i in range(count)
    ]
    columns = math.ceil(math.sqrt(count))
    width, height = pictures[0].width + GAP, pictures[0].height + GAP
    size = (columns * width - GAP, math.ceil(count / columns) * height - GAP)
    sheet = Image.new("RGB", size, _GROUND)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _draw(
    image: Tensor, target: Target, model_config: ModelConfig, class_map: ClassMap
) -> Image.Image:
    mean, std = (torch.tensor(v)[:, None, None] for v in (model_config.mean, model_config.std))
    pixels = (image.detach().cpu().float() * std + mean).round().clamp(0, 255).to(torch.uint8)
    picture = to_picture(pixels)
    factor = min(max(1.0, SIDES[0] / max(picture.size)), SIDES[1] / max(picture.size))
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)))
    labels = target.labels.tolist()
    crowd = target.crowd.tolist()
    draw_boxes(
        picture,
        target.boxes.cpu() * factor,
        [
            shown_name(class_map.name(label)) + (" (crowd)" if is_crowd else "")
            for label, is_crowd in zip(labels, crowd, strict=True)
        ],
        [class_color(label) for label in labels],
    )
    return picture
