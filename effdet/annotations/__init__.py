# SPDX-License-Identifier: Apache-2.0
"""COCO's JSON files of others, read and checked: one way for all who use them."""

from effdet.annotations.classes import Renamed, check_classes
from effdet.annotations.faults import KINDS, AnnotationError, Fault, Faults
from effdet.annotations.image_files import (
    FileLooker,
    check_image_files,
    check_names,
    fault_of_name,
)
from effdet.annotations.links import refuse_way_out
from effdet.annotations.references import some
from effdet.annotations.repairs import fit_boxes, refuse_repairs, scorable
from effdet.annotations.results import collect_results, read_results
from effdet.annotations.salvage import salvage_annotations
from effdet.annotations.table import (
    AnnotationTable,
    Names,
    Source,
    collect_annotations,
    read_annotations,
)

__all__ = [
    "KINDS",
    "AnnotationError",
    "AnnotationTable",
    "Fault",
    "Faults",
    "FileLooker",
    "Names",
    "Renamed",
    "Source",
    "check_classes",
    "check_image_files",
    "check_names",
    "collect_annotations",
    "collect_results",
    "fault_of_name",
    "fit_boxes",
    "read_annotations",
    "read_results",
    "refuse_repairs",
    "refuse_way_out",
    "salvage_annotations",
    "scorable",
    "some",
]
