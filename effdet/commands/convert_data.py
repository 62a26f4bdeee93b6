# SPDX-License-Identifier: Apache-2.0
"""``effdet convert-data``."""

import shlex

from effdet import flags
from effdet.counts import counted
from effdet.data.convert import Conversion, convert_data
from effdet.data.formats.split import TITLES
from effdet.names import say
from effdet.settings.convert_data import ConvertDataConfig

DESCRIPTION = "Write a data set in another format: COCO JSON, Pascal VOC XML or YOLO txt."

NEVER_KEPT = {
    "coco": "segmentation, keypoints, licences and other fields of the JSON that boxes do not need",
    "voc": "pose, truncated, occluded and parts of objects",
    "yolo": "polygons: the boxes around them are kept",
    "csv": "columns that boxes do not need",
}
"""What no table holds of a format."""


def run(argv: list[str]) -> None:
    """``effdet convert-data``."""
    config = flags.parse(
        ConvertDataConfig, argv, program="effdet convert-data", description=DESCRIPTION
    )
    conversion = convert_data(
        config.source,
        config.output,
        config.to,
        images=config.images,
        val_share=config.val_share,
        seed=config.seed,
        follow_links=config.follow_links,
    )
    say(format_conversion(conversion, config.to))
    if config.images == "none":
        say("without images: put them where the annotations name them")
    say(f"next: {shlex.join(['effdet', 'check', config.output])}")


def format_conversion(conversion: Conversion, to: str) -> str:
    """What was written and what was lost, for people."""
    titles = {str(name): title for name, title in TITLES.items()}
    lines = [f"{titles[conversion.source]} -> {titles[to]}"]
    for name, count in conversion.images.items():
        boxes = counted(conversion.boxes[name], "box", "boxes")
        lines.append(f"{name:<9} {counted(count, 'image')}, {boxes}")
    lost = {what: count for what, count in conversion.lost.items() if count}
    if lost:
        lines.append(f"{titles[to]} cannot hold:")
        lines += [f"  {count:>9,} {what}" for what, count in lost.items()]
    else:
        lines.append("all of ids, boxes, areas, crowd regions and classes was kept")
    lines.append(f"not read: {NEVER_KEPT[conversion.source]}")
    return "\n".join(lines)
