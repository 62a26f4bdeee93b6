# SPDX-License-Identifier: Apache-2.0
"""Settings of ``validate.py`` and of the commands of ``effdet``."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from effdet.config import Padding
from effdet.errors import UsageError
from effdet.flags import option
from effdet.settings.data import DataConfig
from effdet.settings.postprocess import PostprocessConfig
from effdet.settings.values import (
    AmpDtype,
    Evaluator,
    require,
    require_amp,
    require_input,
)


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(DataConfig, PostprocessConfig):
    """Settings of ``validate.py``."""

    data: str = option(
        "shapes",
        metavar="DIR",
        help="data folder: COCO, VOC, YOLO or CSV; or 'shapes': the built-in set",
    )
    split: str = option("val", metavar="NAME", help="split to validate on")
    annotations: str | None = option(
        None, metavar="FILE", help="COCO JSON or CSV file instead of --split's"
    )
    images: str | None = option(None, metavar="DIR", help="folder of the images")
    weights: str | None = option(
        None, metavar="FILE", help="weights to validate: a file, or a public name"
    )
    predictions: str | None = option(
        None, metavar="FILE", help="COCO results file to score instead of a model"
    )
    use_ema: bool = option(True, help="validate the averaged weights where the file has them")
    trust_code: bool = option(
        False, help="run weights that are code: a .pt2 of effdet export that you trust"
    )
    image_size: tuple[int, ...] | None = option(None, help="input pixels: side, or height width")
    batch_size: int = option(8, help="images a process and step")
    amp: bool = option(False, help="mixed precision: float16 on CUDA, bfloat16 on CPU")
    amp_dtype: AmpDtype | None = option(None, help="precision of --amp")
    channels_last: bool = option(True, help="keep images and features channels-last in memory")
    device: str | None = option(None, help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    workers: int | None = option(None, help="loader processes each (default: by CPUs)")
    max_bad_images: float = option(
        0.0, help="part of the images, 0-1, that may be unreadable: their boxes count as missed"
    )
    evaluator: Evaluator = option("faster", help="library that computes the COCO figures")
    json: str | None = option(
        None,
        metavar="FILE",
        help="write the detections here, in COCO's results format",
        in_file=False,
    )
    metrics: str | None = option(
        None, metavar="FILE", help="write the figures here, as JSON", in_file=False
    )

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        PostprocessConfig.__post_init__(self)
        require(self, ("batch_size",), lambda v: v > 0, "above 0")
        if self.workers is not None:
            require(self, ("workers",), lambda v: v >= 0, "at least 0")
        require_amp(self.amp, self.amp_dtype)
        if self.predictions is not None and self.json is not None:
            raise UsageError("--json writes a model's detections; --predictions are there already")
        if (self.weights is None) == (self.predictions is None):
            raise UsageError("give --weights to validate a model or --predictions to score a file")
        if self.predictions is not None and self.annotations is None:
            raise UsageError("--predictions needs --annotations, the ground truth to score against")
        if self.predictions is not None:
            self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """Refuse options that are about a model where there is none."""
        used = {"predictions", "annotations", "evaluator", "metrics", "strict_data"}
        for field in dataclasses.fields(self):
            if field.name not in used and getattr(self, field.name) != field.default:
                flag = field.name.replace("_", "-")
                raise UsageError(f"--{flag} does nothing with --predictions; leave it out")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Settings of ``effdet convert``."""

    source: str = option(
        help="weights of any known kind, or the name of a public release",
        positional=True,
    )
    output: str = option(help="file to write, .safetensors or .pt", positional=True)
    model: str | None = option(None, help="which of models whose tensors are alike (D6, D7)")
    padding: Padding | None = option(None, help="likewise: as TensorFlow (same) or as PyTorch")
    classes: tuple[str, ...] = option(
        (), metavar="NAME", help="names of the class outputs, in their order"
    )
    mean: tuple[float, float, float] | None = option(
        None, help="subtracted from RGB values in 0-255, where it is not the usual (AdvProp: 127.5)"
    )
    std: tuple[float, float, float] | None = option(
        None, help="divides them after that (AdvProp: 127.5)"
    )
    licence: str = option("", help="licence of the weights, such as Apache-2.0")
    use_ema: bool = option(True, help="take the averaged weights where the file has them")

    def __post_init__(self) -> None:
        require_input(self.mean, self.std)
        faults = [name for name in self.classes if not name.strip()]
        faults += [name for name in self.classes if self.classes.count(name) > 1]
        if faults:
            raise UsageError(f"classes must be names that differ, got {faults[0]!r}")


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Settings of ``effdet average``."""

    checkpoint: tuple[str, ...] = option(help="checkpoints of one model", positional=True)
    output: str = option(metavar="FILE", help="checkpoint to write")
    best: int = option(0, help="only the so many with the highest AP, 0: all")
    use_ema: bool = option(True, help="use the averaged weights where a file has them")

    def __post_init__(self) -> None:
        require(self, ("best",), lambda v: v == 0 or v >= 2, "2 or more, or 0 for all")


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Settings of ``effdet info``."""

    files: tuple[str, ...] = option(
        (), metavar="FILE", help="weights to look at (default: list the models)", positional=True
    )
    json: bool = option(False, help="print JSON for programs")
    build: bool = option(False, help="print which kernels are compiled, and for what")

    def __post_init__(self) -> None:
        if self.files and self.build:
            raise UsageError("give FILES or --build, not both")


DatasetPart = Literal["train", "val", "annotations"]
DATASET = "coco2017"


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Settings of ``effdet download``."""

    names: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="public releases of weights to fetch, or coco2017: the data set",
        positional=True,
    )
    list: bool = option(False, help="list the public releases")
    output: str | None = option(None, metavar="DIR", help="folder for coco2017 (default: coco2017)")
    parts: tuple[DatasetPart, ...] = option(
        (), help="parts of coco2017: train (20 GB), val, annotations (default: all)"
    )

    def __post_init__(self) -> None:
        if not self.names and not self.list:
            raise UsageError("give NAMES of public releases, coco2017, or --list to see them")
        if DATASET not in self.names and (self.output is not None or self.parts):
            raise UsageError(f"--output and --parts are for {DATASET}; weights go to the cache")
