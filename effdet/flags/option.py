# SPDX-License-Identifier: Apache-2.0
"""A field of a dataclass that is also a flag."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    positional: bool = False,
    in_file: bool = True,
    group: str | None = None,
    instead: Mapping[str, str] | None = None,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: its value where none is given; without one it must be.
        help: one line that names the unit.
        metavar: what stands for its value in ``--help``, such as FILE (default: N for whole
            numbers, X for others, else the name).
        positional: whether it takes words without a flag.
        in_file: whether a ``--config`` file may set it.
        group: heading in ``--help`` of this option and of those after it in the class.
        instead: words that are no values but are tried -> what to do, for the error message.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "positional": positional,
        "in_file": in_file,
        "group": group,
        "instead": instead or {},
    }
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Its name on the command line: ``--name``, or NAME where it takes words without a flag."""
    if field.metadata.get("positional"):
        return field.metadata["metavar"] or field.name.upper()
    return flag_name(field.name)


def advice_on(field: dataclasses.Field[Any], value: object) -> str:
    """The end of the message about a ``value`` that does not fit, where more is known of it."""
    advice = field.metadata["instead"].get(value) if isinstance(value, str) else None
    return f"; {advice}" if advice else ""


def flag_name(name: str) -> str:
    """``--max-detections`` for the field ``max_detections``."""
    return "--" + name.replace("_", "-")


def as_flag(name: str, value: Any) -> str:
    """A setting as it is typed: ``--max-detections 100``, ``--no-class-agnostic``."""
    if isinstance(value, bool):
        return flag_name(name if value else f"no_{name}")
    return f"{flag_name(name)} {value}"
