# SPDX-License-Identifier: Apache-2.0
"""From detections to COCO's figures."""

from effdet.evaluation.coco import ClassFigures, CocoEvaluator, Metrics, score_files
from effdet.evaluation.diagnosis import diagnose
from effdet.evaluation.files import GroundTruth, Results
from effdet.evaluation.loop import evaluate
from effdet.evaluation.report import check_output, format_metrics, write_metrics, write_results

__all__ = [
    "ClassFigures",
    "CocoEvaluator",
    "GroundTruth",
    "Metrics",
    "Results",
    "check_output",
    "diagnose",
    "evaluate",
    "format_metrics",
    "score_files",
    "write_metrics",
    "write_results",
]
