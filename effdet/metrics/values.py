# SPDX-License-Identifier: Apache-2.0
"""Values of any library as plain ones that JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """``value`` as bool, int, float, str, None, list or dict.

    NumPy's and torch's scalars become numbers and their arrays lists; not-a-number and infinities
    become None; what is none of these becomes its ``str``.
    """
    if isinstance(value, float):
        # float(): NumPy's float64 is a float, too.
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # a number for a scalar
        return plain(value.tolist())
    return str(value)


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`plain` of each."""
    return {name: plain(value) for name, value in values.items()}
