# SPDX-License-Identifier: Apache-2.0
"""The settings of the programs: every field of these dataclasses is an option."""

from effdet.settings.average import AverageConfig
from effdet.settings.benchmark import BenchmarkConfig
from effdet.settings.check import CheckConfig
from effdet.settings.convert import ConvertConfig
from effdet.settings.data import DataConfig
from effdet.settings.download import DownloadConfig
from effdet.settings.export import ExportConfig, ExportFormat
from effdet.settings.info import InfoConfig
from effdet.settings.postprocess import (
    FOR_PEOPLE,
    PostprocessConfig,
    asked_postprocess,
    select_postprocess,
)
from effdet.settings.predict import PredictConfig
from effdet.settings.train import TrainConfig
from effdet.settings.train_model import SETTLED
from effdet.settings.validate import ValidateConfig
from effdet.settings.values import (
    MAX_PIXELS,
    NMS,
    AmpDtype,
    Console,
    Evaluator,
    Normalizer,
    Optimizer,
    Save,
    Schedule,
    Sink,
    WeightsToValidate,
    refuse_changed,
)

__all__ = [
    "FOR_PEOPLE", "MAX_PIXELS", "NMS", "SETTLED", "AmpDtype", "AverageConfig", "BenchmarkConfig",
    "CheckConfig", "Console", "ConvertConfig", "DataConfig", "DownloadConfig", "Evaluator",
    "ExportConfig", "ExportFormat", "InfoConfig", "Normalizer", "Optimizer", "PostprocessConfig",
    "PredictConfig", "Save", "Schedule", "Sink", "TrainConfig", "ValidateConfig",
    "WeightsToValidate", "asked_postprocess", "refuse_changed", "select_postprocess",
]  # fmt: skip
