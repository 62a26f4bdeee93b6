# SPDX-License-Identifier: Apache-2.0
"""Pictures with detections."""

from pathlib import Path

from PIL import Image

from effdet.drawing import class_color, draw_boxes, save_picture, to_picture
from effdet.errors import UsageError
from effdet.inference.sources import Source, read_image
from effdet.names import shown_name
from effdet.structures import ClassMap, Detections


def draw(
    image: Source,
    detections: Detections,
    class_map: ClassMap,
    output: str | Path | None = None,
) -> Image.Image:
    """A copy of ``image`` with a box, a name and a score for each detection, the best on top.

    Lines and letters grow with the picture; labels stay inside it.

    Args:
        image: file, Pillow image or ``[3, H, W]`` uint8 RGB.
        detections: boxes in pixels of that image.
        class_map: names of the classes.
        output: file to write the picture to, in the format of its ending.

    Raises:
        DataError: for an image that cannot be decoded.
        UsageError: for an ``output`` ending that Pillow does not write.
    """
    if not isinstance(class_map, ClassMap):
        raise UsageError(
            f"class_map must be a ClassMap such as detector.class_map, got {class_map!r}"
        )
    picture = to_picture(read_image(image))
    labels = detections.labels.tolist()
    draw_boxes(
        picture,
        detections.boxes,
        [
            f"{shown_name(class_map.name(label))} {score:.2f}"
            for label, score in zip(labels, detections.scores.tolist(), strict=True)
        ],
        [class_color(label) for label in labels],
    )
    if output is not None:
        save_picture(picture, output)
    return picture
