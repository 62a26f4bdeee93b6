# SPDX-License-Identifier: Apache-2.0
"""Names of ``efficientnet-pytorch`` and ``efficientnet-lite-pytorch`` classifiers (``.pth``)."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_MBCONV = re.compile(r"blocks\.(\d+)\.(expand|depthwise|project)\.(conv|bn)\.(\w+)")
_SE = re.compile(r"blocks\.(\d+)\.se\.(reduce|expand)\.(\w+)")
_NORM = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
MARK = "_conv_stem.weight"
"""A name that these files have and others do not."""


def variable(name: str) -> str:
    """The file's name for our tensor ``name`` of :class:`effdet.models.EfficientNetClassifier`."""
    part, rest = name.split(".", 1)
    if part == "classifier":
        return f"_fc.{rest}"
    if part == "head":
        return rest.replace("conv.", "_conv_head.").replace("bn.", "_bn1.")
    if rest.startswith("stem."):
        return rest.replace("stem.conv.", "_conv_stem.").replace("stem.bn.", "_bn0.")
    if match := _SE.fullmatch(rest):
        index, layer, leaf = match.groups()
        return f"_blocks.{index}._se_{layer}.{leaf}"
    match = _MBCONV.fullmatch(rest)
    assert match is not None, name
    index, layer, kind, leaf = match.groups()
    module = _NORM[layer] if kind == "bn" else f"_{layer}_conv"
    return f"_blocks.{index}.{module}.{leaf}"


def state_dict(names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors ``names`` out of the file's ``tensors``; those it lacks are left out."""
    pairs = [(name, variable(name)) for name in names]
    return {name: tensors[theirs] for name, theirs in pairs if theirs in tensors}


def unused_in_backbone(names: Iterable[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """The file's tensors of blocks that none of our tensors ``names`` takes.

    There are some where a file of B0 is read for Lite0, whose tensors are a part of B0's.
    """
    used = {variable(name) for name in names}
    return [theirs for theirs in tensors if theirs.startswith("_blocks.") and theirs not in used]
