# SPDX-License-Identifier: Apache-2.0
"""``effdet COMMAND``: predict, info, convert, download, average."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effdet import __version__, errors, flags
from effdet.anchors import num_anchors
from effdet.config import MODELS, ModelConfig
from effdet.errors import UsageError, nearest, printable
from effdet.inference import expand_sources, load, predict_to_folder
from effdet.models import EfficientDet, multiply_adds, trainable_parameters
from effdet.names import say
from effdet.ops import build_info
from effdet.settings import (
    AverageConfig,
    ConvertConfig,
    DownloadConfig,
    InfoConfig,
    PredictConfig,
    select_postprocess,
)
from effdet.weights.average import average_weights
from effdet.weights.convert import convert_weights
from effdet.weights.describe import describe_weights, format_weights
from effdet.weights.download import fetch, find_release, format_releases


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    errors.run(lambda: run_command(sys.argv[1:]), "effdet")


def run_command(argv: list[str]) -> None:
    """Run one command.

    Raises:
        UsageError: for an unknown command or option.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] == "--version":
        print(__version__)
        return
    if argv[0] not in COMMANDS:
        raise UsageError(
            f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)} (see effdet --help)"
        )
    COMMANDS[argv[0]](argv[1:])


def predict(argv: list[str]) -> None:
    """Find objects in images: pictures with boxes, and predictions.json."""
    config = flags.parse(PredictConfig, argv, program="effdet predict", description=_line(predict))
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


def info(argv: list[str]) -> None:
    """Show what weights files are, the models, or with --build the compiled kernels."""
    config = flags.parse(InfoConfig, argv, program="effdet info", description=_line(info))
    if config.files:
        found = [describe_weights(Path(name)) for name in config.files]
        as_text = "\n\n".join(map(format_weights, found))
        say(json.dumps(found, indent=1) if config.json else as_text)
        return
    if config.build:
        print(_format_build(build_info(), config.json))
        return
    if config.json:
        print(json.dumps([describe(model) for model in MODELS.values()], indent=1))
        return
    print(_HEADER)
    for model in MODELS.values():
        print(_format_model(describe(model)), flush=True)  # each takes a moment
    print("\nParameters for 90 classes; multiply-adds of convolutions.")


def convert(argv: list[str]) -> None:
    """Write weights of any known kind as a file of this toolkit."""
    config = flags.parse(ConvertConfig, argv, program="effdet convert", description=_line(convert))
    say(convert_weights(config))


def download(argv: list[str]) -> None:
    """Fetch public weights, to be used without a network later; print where they are."""
    config = flags.parse(
        DownloadConfig, argv, program="effdet download", description=_line(download)
    )
    if config.list:
        print(format_releases())
    for release in [find_release(name) for name in config.names]:
        say(str(fetch(release)))


def average(argv: list[str]) -> None:
    """Average the weights of checkpoints of one model."""
    config = flags.parse(AverageConfig, argv, program="effdet average", description=_line(average))
    say(average_weights(config))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "predict": predict,
    "info": info,
    "convert": convert,
    "download": download,
    "average": average,
}


def describe(config: ModelConfig) -> dict[str, Any]:
    """Figures of a model: parameters, multiply-adds of its convolutions, anchors and input."""
    with torch.device("meta"):
        model = EfficientDet(config).eval()
        image = torch.empty(1, 3, *config.image_size)
    return {
        "name": config.name,
        "backbone": config.backbone,
        "image_size": list(config.image_size),
        "parameters": trainable_parameters(model),
        "multiply_adds": multiply_adds(model, image),
        "anchors": num_anchors(config),
        "num_classes": config.num_classes,
    }


_HEADER = (
    f"{'name':<20} {'backbone':<19} {'image size':>11} {'parameters':>12} {'multiply-adds':>15} "
    f"{'anchors':>9}"
)


def _format_model(model: dict[str, Any]) -> str:
    size = " x ".join(map(str, model["image_size"]))
    return (
        f"{model['name']:<20} {model['backbone']:<19} {size:>11} {model['parameters']:>12,} "
        f"{model['multiply_adds'] / 1e9:>13.3f} G {model['anchors']:>9,}"
    )


def _format_build(build: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(build, indent=1)
    return "\n".join(f"{key:<14} {value}" for key, value in build.items())


def _overview() -> str:
    lines = ["usage: effdet COMMAND [options]", ""]
    lines += [f"  {name:<10} {_line(command)}" for name, command in COMMANDS.items()]
    lines += ["", "effdet COMMAND --help lists the options. To train and validate: train.py and"]
    return "\n".join([*lines, "validate.py at the root of the repository."])


def _line(command: Callable[..., None]) -> str:
    return (command.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    main()
