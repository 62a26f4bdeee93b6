# SPDX-License-Identifier: Apache-2.0
"""``--anchors``: the shapes of a model's anchors as one word.

``1,2,0.5@4x3``: the aspect ratios (width / height), after ``@`` the side of the smallest square
anchor in strides, after ``x`` how many sizes there are an octave. What follows ``@`` may be left
out, and so may what follows ``x``: the model's own is taken then.
"""

import re
from typing import Any

from effdet.config import ModelConfig
from effdet.errors import SettingError, shown

_FORM = re.compile(r"(?P<ratios>[^@x]+)(?:@(?P<scale>[^@x]+))?(?:x(?P<scales>[^@x]+))?")


def parse_anchors(text: str) -> dict[str, Any]:
    """The fields of :class:`~effdet.config.ModelConfig` that ``--anchors`` sets.

    Raises:
        SettingError: where ``text`` is not of that form.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _wrong(text)
    try:
        values: dict[str, Any] = {
            "aspect_ratios": tuple(float(word) for word in found["ratios"].split(","))
        }
        if found["scale"] is not None:
            values["anchor_scale"] = float(found["scale"])
        if found["scales"] is not None:
            values["num_scales"] = int(found["scales"])
    except ValueError as error:
        raise _wrong(text) from error
    ratios = values["aspect_ratios"]
    if len(set(ratios)) < len(ratios):
        raise SettingError("anchors", f"must have aspect ratios that differ, got {shown(text)}")
    return values


def format_anchors(config: ModelConfig) -> str:
    """The anchors of a model as :func:`parse_anchors` reads them."""
    ratios = ",".join(map(_number, config.aspect_ratios))
    return f"{ratios}@{_number(config.anchor_scale)}x{config.num_scales}"


def _number(value: float) -> str:
    """All digits of ``value``, so that the same number is read again."""
    return repr(float(value)).removesuffix(".0")


def _wrong(text: str) -> SettingError:
    return SettingError(
        "anchors",
        "must be aspect ratios, @ and a scale, x and sizes an octave, as 1,2,0.5@4x3, got "
        f"{shown(text)}",
    )
