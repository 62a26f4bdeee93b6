# SPDX-License-Identifier: Apache-2.0
"""The programs whose weights are read."""

from typing import Any

from effdet.weights.source import Source
from effdet.weights.sources.automl import CLASSIFIER, CLASSIFIER_BUILT_TWICE, DETECTOR
from effdet.weights.sources.automl_objects import HUB, OBJECTS
from effdet.weights.sources.lukemelas import LUKEMELAS
from effdet.weights.sources.nvidia import NVIDIA
from effdet.weights.sources.rwightman import RWIGHTMAN
from effdet.weights.sources.timm import TIMM
from effdet.weights.sources.torchvision import TORCHVISION
from effdet.weights.sources.zylo117 import ZYLO117

AUTOML = (DETECTOR, OBJECTS, HUB, CLASSIFIER, CLASSIFIER_BUILT_TWICE)

SOURCES: tuple[Source[Any], ...] = (
    *AUTOML, *RWIGHTMAN, *NVIDIA, ZYLO117, TIMM, TORCHVISION, LUKEMELAS,
)  # fmt: skip
"""At most one of these recognises a file."""
