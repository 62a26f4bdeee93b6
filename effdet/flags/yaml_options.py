# SPDX-License-Identifier: Apache-2.0
"""Options in YAML files."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet.errors import UsageError, nearest, shown
from effdet.files import replace_text
from effdet.files.yaml_file import dump_yaml, read_yaml
from effdet.flags.option import advice_on, flag_of
from effdet.flags.values import checked


def load_yaml(cls: type[Any], path: str | Path) -> dict[str, Any]:
    """The values of a YAML file, every key checked against the fields of ``cls``.

    Raises:
        UsageError: naming file, line and column, what was expected and what was found.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, entry in read_yaml(path).items():
        if key in ("preset", "config"):
            raise UsageError(f"{entry.key_place}: give --{key} on the command line, not here")
        if key not in fields:
            raise UsageError(
                f"{entry.key_place}: unknown option {shown(key)}{nearest(key, fields)}"
            )
        if not fields[key].metadata["in_file"]:
            flag = flag_of(fields[key])
            raise UsageError(f"{entry.key_place}: give {flag} on the command line, not here")
        try:
            values[key] = checked(hints[key], entry.value)
        except ValueError as error:
            advice = advice_on(fields[key], entry.value)
            raise UsageError(f"{entry.place}: {key} must be {error}{advice}") from error
    return values


def checked_values(cls: type[Any], values: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Values that ``source`` gives for fields of ``cls``, each of its field's type.

    Raises:
        UsageError: naming the source, the field and the value.
    """
    hints = typing.get_type_hints(cls)
    found = {}
    for key, value in values.items():
        try:
            found[key] = checked(hints[key], list(value) if isinstance(value, tuple) else value)
        except ValueError as error:
            raise UsageError(f"{source}: {key} must be {error}") from error
    return found


def save_yaml(config: Any, path: str | Path, *, leave_out: Sequence[str] = ()) -> None:
    """Write ``config`` so that ``--config PATH`` gives the same values, but for ``leave_out``.

    Raises:
        WriteError: with path and reason.
    """
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in leave_out and field.metadata["in_file"]
    }
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    replace_text(path, dump_yaml(values))
