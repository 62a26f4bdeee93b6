# SPDX-License-Identifier: Apache-2.0
"""``effdet convert-data``."""

import contextlib
import shlex
import signal
from collections.abc import Iterator
from types import FrameType

from effdet import flags
from effdet.counts import counted
from effdet.data.convert import Conversion, convert_data
from effdet.data.formats.split import TITLES
from effdet.errors import SignalError
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
    with _signals_raise():
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


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let the first signal that asks to end be an error, after which nothing half is left."""

    def end(number: int, frame: FrameType | None) -> None:
        for other in handlers:
            signal.signal(other, signal.SIG_IGN)
        raise SignalError(number, f"ended by {signal.Signals(number).name}")

    both = (signal.SIGTERM, signal.SIGHUP)
    handlers = {n: signal.getsignal(n) for n in both if signal.getsignal(n) != signal.SIG_IGN}
    try:
        for number in handlers:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
