# SPDX-License-Identifier: Apache-2.0
"""The settings of the programs: every field of these dataclasses is an option."""

from effdet.settings.data import DataConfig
from effdet.settings.postprocess import FOR_PEOPLE, PostprocessConfig, select_postprocess
from effdet.settings.programs import (
    AverageConfig,
    ConvertConfig,
    DownloadConfig,
    InfoConfig,
    PredictConfig,
    ValidateConfig,
)
from effdet.settings.train import SETTLED, TrainConfig
from effdet.settings.values import (
    MAX_PIXELS,
    NMS,
    AmpDtype,
    Console,
    Evaluator,
    Normalizer,
    Optimizer,
    Schedule,
    Sink,
    WeightsToValidate,
)

__all__ = [
    "FOR_PEOPLE", "MAX_PIXELS", "NMS", "SETTLED", "AmpDtype", "AverageConfig", "Console",
    "ConvertConfig", "DataConfig", "DownloadConfig", "Evaluator", "InfoConfig", "Normalizer",
    "Optimizer", "PostprocessConfig", "PredictConfig", "Schedule", "Sink", "TrainConfig",
    "ValidateConfig", "WeightsToValidate", "select_postprocess",
]  # fmt: skip
