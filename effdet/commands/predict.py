# SPDX-License-Identifier: Apache-2.0
"""``effdet predict``."""

import dataclasses
import sys

from effdet import flags
from effdet.errors import printable
from effdet.inference import expand_sources, load, predict_to_folder
from effdet.names import say
from effdet.settings import PredictConfig, select_postprocess

DESCRIPTION = "Find objects in images: pictures with boxes, and predictions.json."


def run(argv: list[str]) -> None:
    """``effdet predict``."""
    config = flags.parse(PredictConfig, argv, program="effdet predict", description=DESCRIPTION)
    sources = expand_sources(config.source)
    detector = load(config.weights, device=config.device, use_ema=config.use_ema)
    report = predict_to_folder(
        detector,
        sources,
        config.output,
        batch_size=config.batch_size,
        classes=config.classes,
        max_pixels=config.max_pixels,
        **dataclasses.asdict(select_postprocess(config)),
    )
    for text in report.notes.values():
        print(f"note: {printable(text)}", file=sys.stderr)
    say(f"{report.num_detections} detections in {report.num_images} images")
    say(f"pictures and {report.predictions.name} in {report.predictions.parent}")
    report.check()
