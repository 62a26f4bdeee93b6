# SPDX-License-Identifier: Apache-2.0
"""Settings of ``validate.py``."""

import dataclasses
from dataclasses import dataclass

from effdet.errors import UsageError
from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.data import DataConfig
from effdet.settings.postprocess import PostprocessConfig
from effdet.settings.values import AmpDtype, Evaluator, refuse_changed, require, require_amp


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(DataConfig, PostprocessConfig):
    """Settings of ``validate.py``."""

    data: str = option(
        "shapes",
        metavar="DIR",
        help=shared_help.DATA,
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
    trust_code: bool = option(False, help=shared_help.TRUST_CODE)
    image_size: tuple[int, ...] | None = option(None, help=shared_help.IMAGE_SIZE)
    batch_size: int = option(8, help="images a process and step")
    amp: bool = option(False, help="mixed precision: float16 on CUDA, bfloat16 on CPU")
    amp_dtype: AmpDtype | None = option(None, help="precision of --amp")
    channels_last: bool = option(True, help=shared_help.CHANNELS_LAST)
    device: str | None = option(None, help=shared_help.DEVICE)
    workers: int | None = option(None, help=shared_help.LOADERS)
    max_bad_images: float = option(
        0.0, help="part of the images, 0-1, that may be unreadable: their boxes count as missed"
    )
    evaluator: Evaluator = option("faster", help=shared_help.EVALUATOR)
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
            used = {"predictions", "annotations", "evaluator", "metrics", "strict_data"}
            names = {field.name for field in dataclasses.fields(self)} - used
            refuse_changed(self, names, "with --predictions")
