# SPDX-License-Identifier: Apache-2.0
"""From detections to COCO's figures."""

from effdet.evaluation.coco import ClassFigures, CocoEvaluator, Metrics, score_files
from effdet.evaluation.curves import (
    RECALLS,
    BestF1,
    ClassCurve,
    best_f1,
    class_curves,
    confusion_matrix,
)
from effdet.evaluation.diagnosis import LEAST_AP, diagnose, finds_nothing
from effdet.evaluation.files import GroundTruth, Results
from effdet.evaluation.loop import evaluate
from effdet.evaluation.matching import Fate, Kind, Matching, match
from effdet.evaluation.mistakes import (
    ErrorCounts,
    ImageErrors,
    count_errors,
    spread_images,
    worst_images,
)
from effdet.evaluation.report import format_metrics, write_metrics, write_results

__all__ = [
    "LEAST_AP",
    "RECALLS",
    "BestF1",
    "ClassCurve",
    "ClassFigures",
    "CocoEvaluator",
    "ErrorCounts",
    "Fate",
    "GroundTruth",
    "ImageErrors",
    "Kind",
    "Matching",
    "Metrics",
    "Results",
    "best_f1",
    "class_curves",
    "confusion_matrix",
    "count_errors",
    "diagnose",
    "evaluate",
    "finds_nothing",
    "format_metrics",
    "match",
    "score_files",
    "spread_images",
    "worst_images",
    "write_metrics",
    "write_results",
]
