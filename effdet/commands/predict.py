# SPDX-License-Identifier: Apache-2.0
"""``effdet predict``."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from effdet import flags
from effdet.counts import counted
from effdet.export import is_exported, typed
from effdet.export.kinds import refuse_trust
from effdet.inference import (
    TILE_OVERLAP,
    AnySource,
    Detector,
    FolderReport,
    ReadSettings,
    VideoSource,
    expand_sources,
    import_av,
    load,
    predict_to_folder,
)
from effdet.inference.reading import Picture, read_sources
from effdet.names import say, tell
from effdet.settings import PredictConfig, asked_postprocess, refuse_changed

DESCRIPTION = "Find objects in images, videos and cameras: pictures with boxes, and their records."

LOOKED_AT = 8
"""Images or frames that are looked at again where nothing was found."""


def run(argv: list[str]) -> None:
    """``effdet predict``."""
    config = flags.parse(PredictConfig, argv, program="effdet predict", description=DESCRIPTION)
    refuse_trust([config.weights], config.trust_code)
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
        read=_read_settings(config),
        annotations=config.annotations,
        yolo_scores=config.yolo_scores,
        batch_size=config.batch_size,
        classes=config.classes,
        tta=config.tta,
        tile=config.tile,
        tile_overlap=_overlap(config),
        **asked_postprocess(config),
    )
    _tell(report, config)
    if report.num_images and not report.num_detections:
        say(_why_nothing(detector, sources, report.num_images, config))
    say(f"next: {_next(config.weights)}")
    report.check()


def _read_settings(config: PredictConfig) -> ReadSettings:
    return ReadSettings(
        workers=config.workers,
        max_pixels=config.max_pixels,
        every=config.every,
        max_frames=config.max_frames,
        seconds=config.seconds,
    )


def _overlap(config: PredictConfig) -> float:
    return TILE_OVERLAP if config.tile_overlap is None else config.tile_overlap


def _check_videos(config: PredictConfig, sources: Sequence[AnySource]) -> None:
    """Refuse what is about videos where there is none, and videos that cannot be read here."""
    if any(isinstance(source, VideoSource) for source in sources):
        import_av()
        return
    refuse_changed(config, ("every", "max_frames", "seconds"), "without a video")


def _tell(report: FolderReport, config: PredictConfig) -> None:
    for text in report.notes.values():
        tell(f"note: {text}")
    say(
        f"{counted(report.num_detections, 'detection')} in {counted(report.num_images, 'image')} "
        f"({report.images_per_second:.1f} images/s)"
    )
    say(f"{' and '.join(config.save)} in {report.folder}")


def _why_nothing(
    detector: Detector, sources: Sequence[AnySource], num_images: int, config: PredictConfig
) -> str:
    """The highest score in the first images or frames, which was below the threshold."""
    own = detector.own_threshold
    files = [source for source in sources if isinstance(source.place, Path)]
    looked = list(islice(_read_again(files, config), LOOKED_AT))
    scores: list[float] = []
    for picture in looked:
        found = detector.predict(
            picture.image,
            classes=config.classes,
            tta=config.tta,
            tile=config.tile,
            tile_overlap=_overlap(config),
            **asked_postprocess(config) | {"score_threshold": own},
        )
        scores += found.scores[:1].tolist()
    if not scores and own and (looked or config.score_threshold <= own):
        return (
            f"nothing was found: the file holds no score up to {own:g}; for those export it with "
            "`effdet export --detections --score-threshold`"
        )
    if not scores:
        return "nothing was found: try a lower --score-threshold, or other weights"
    unit = "image" if any(picture.frame is None for picture in looked) else "frame"
    where = f" in the first {counted(len(looked), unit)}" if num_images > len(looked) else ""
    return (
        f"nothing was found: the highest score{where} is {max(scores):.3g}; a lower "
        "--score-threshold shows what the model guesses"
    )


def _read_again(files: Sequence[AnySource], config: PredictConfig) -> Iterator[Picture]:
    """Images and frames of files as they were read, without those that cannot be."""
    read = replace(_read_settings(config), workers=0)
    return (item for item in read_sources(files, read, 0) if isinstance(item, Picture))


def _next(weights: str) -> str:
    """What one does with a detector that finds what it should."""
    if is_exported(weights):
        return shlex.join(["effdet", "benchmark", *typed(weights)])
    return shlex.join(["effdet", "export", weights, "--format", "onnx"])
