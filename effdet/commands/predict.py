# SPDX-License-Identifier: Apache-2.0
"""``effdet predict``."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from effdet import flags
from effdet.counts import counted
from effdet.errors import UsageError, printable
from effdet.inference import (
    TILE_OVERLAP,
    AnySource,
    FolderReport,
    ReadSettings,
    VideoSource,
    check_tiles,
    expand_sources,
    import_av,
    load,
    predict_to_folder,
)
from effdet.names import say
from effdet.settings import PredictConfig, select_postprocess

DESCRIPTION = "Find objects in images, videos and cameras: pictures with boxes, and their records."

EXPORTED = (".onnx", ".xml", ".pt2", ".engine")


def run(argv: list[str]) -> None:
    """``effdet predict``."""
    config = flags.parse(PredictConfig, argv, program="effdet predict", description=DESCRIPTION)
    overlap = TILE_OVERLAP if config.tile_overlap is None else config.tile_overlap
    check_tiles(config.tile, overlap)
    sources = expand_sources(config.source)
    _check_videos(config, sources)
    detector = load(
        config.weights,
        device=config.device,
        use_ema=config.use_ema,
        trust_code=config.trust_code,
    )
    report = predict_to_folder(
        detector,
        sources,
        config.output,
        save=config.save,
        read=ReadSettings(
            workers=config.workers,
            max_pixels=config.max_pixels,
            every=config.every,
            max_frames=config.max_frames,
            seconds=config.seconds,
        ),
        annotations=config.annotations,
        yolo_scores=config.yolo_scores,
        batch_size=config.batch_size,
        classes=config.classes,
        tta=config.tta,
        tile=config.tile,
        tile_overlap=overlap,
        **dataclasses.asdict(select_postprocess(config)),
    )
    _tell(report, config)
    report.check()


def _check_videos(config: PredictConfig, sources: Sequence[AnySource]) -> None:
    """Refuse what is about videos where there is none, and videos that cannot be read here."""
    about_videos = {"every": 1, "max_frames": 0, "seconds": 0.0}
    if any(isinstance(source, VideoSource) for source in sources):
        import_av()
        return
    for name, default in about_videos.items():
        if getattr(config, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} is about videos, and none is given")


def _tell(report: FolderReport, config: PredictConfig) -> None:
    for text in report.notes.values():
        print(f"note: {printable(text)}", file=sys.stderr)
    say(
        f"{counted(report.num_detections, 'detection')} in {counted(report.num_images, 'image')} "
        f"({report.images_per_second:.1f} images/s)"
    )
    say(f"{' and '.join(config.save)} in {report.folder}")
    say(f"next: {_next(config.weights)}")


def _next(weights: str) -> str:
    """What one does with a detector that finds what it should."""
    if Path(weights).suffix in EXPORTED:
        return f"effdet benchmark {shlex.quote(weights)}"
    return f"effdet export {shlex.quote(weights)} --format onnx"
