# SPDX-License-Identifier: Apache-2.0
"""Command-line flags and YAML files made from the fields of a dataclass.

A field written with :func:`option` is a flag: its name, type, default and help are those of the
field. Values come, later ones winning, from the defaults, a preset, ``--config FILE`` and flags.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

from effdet.errors import UsageError, nearest, shown
from effdet.files import replace_text
from effdet.yaml_file import dump_yaml, read_yaml

Config = TypeVar("Config")

LARGEST_NUMBER = 2**63 - 1
"""Whole numbers beyond it fit into no tensor and no file format."""

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes where it looks like something else",
}


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    positional: bool = False,
    in_file: bool = True,
    group: str | None = None,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: its value where none is given; without one it must be.
        help: one line that names the unit.
        positional: whether it takes words without a flag.
        in_file: whether a ``--config`` file may set it.
        group: heading in ``--help`` of this option and of those after it in the class.
    """
    metadata = {"help": help, "positional": positional, "in_file": in_file, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(argparse.ArgumentParser):
    """argparse that raises :class:`UsageError` and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")

    def parse_known(self, argv: Sequence[str]) -> argparse.Namespace:
        values, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = unknown[0].split("=")[0]
            raise UsageError(f"unknown option {name}{nearest(name, flags)} (see --help)")
        return values


def parse(
    cls: type[Config],
    argv: Sequence[str],
    *,
    program: str,
    description: str,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    saved: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Config:
    """Read ``argv`` into the dataclass ``cls``.

    Args:
        cls: a dataclass whose fields are :func:`option`.
        argv: the words after the program's name.
        program: the name shown in ``--help``.
        description: one line for ``--help``.
        presets: name -> values that ``--preset NAME`` puts before the file and the flags.
        saved: gives, from the flags, values of an earlier run that go before everything else.

    Raises:
        UsageError: for an unknown option, preset or key, or a value that does not fit.
    """
    parser = _Parser(
        prog=program,
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
        usage=f"{program} {_usage(cls)}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    if presets:
        choice = functools.partial(_from_word, Literal[tuple(sorted(presets))])
        names = f"{{{','.join(sorted(presets))}}}"
        parser.add_argument("--preset", type=choice, metavar=names, help="named set of values")
    hints = typing.get_type_hints(cls)
    for heading, fields in _groups(cls).items():
        group = parser.add_argument_group(heading) if heading else parser
        for field in fields:
            _add_flag(group, field, hints[field.name])
    given = vars(parser.parse_known(argv)).items()
    flags: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
    flags.pop("debug", None)
    values = dict(saved(flags)) if saved is not None else {}
    values |= (presets or {}).get(flags.pop("preset", ""), {})
    if "config" in flags:
        values |= load_yaml(cls, flags.pop("config"))
    return build(cls, values | flags)


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
            flag = _flag(fields[key])
            raise UsageError(f"{entry.key_place}: give {flag} on the command line, not here")
        try:
            values[key] = _checked(hints[key], entry.value)
        except ValueError as error:
            raise UsageError(f"{entry.place}: {key} must be {error}") from error
    return values


def checked_values(cls: type[Any], values: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Values that ``source`` gives for fields of ``cls``, each of its field's type.

    Raises:
        UsageError: naming the source, the field and the value.
    """
    hints = typing.get_type_hints(cls)
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = _checked(hints[key], list(value) if isinstance(value, tuple) else value)
        except ValueError as error:
            raise UsageError(f"{source}: {key} must be {error}") from error
    return checked


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


def build(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """``cls(**values)``, with a missing value named as its flag."""
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UsageError(f"{_flag(field)} is needed: {field.metadata['help']}")
    return cls(**values)


def _flag(field: dataclasses.Field[Any]) -> str:
    if field.metadata.get("positional"):
        return field.name.upper()
    return "--" + field.name.replace("_", "-")


def _groups(cls: type[Any]) -> dict[str | None, list[dataclasses.Field[Any]]]:
    """Fields by their heading in ``--help``; the class's own come before inherited ones."""
    rest = {field.name: field for field in dataclasses.fields(cls)}
    groups: dict[str | None, list[dataclasses.Field[Any]]] = {}
    heading = None
    for owner in cls.__mro__:
        names = [name for name in inspect.get_annotations(owner) if name in rest]
        for field in map(rest.pop, names):
            heading = field.metadata["group"] or heading
            groups.setdefault(heading, []).append(field)
    return groups


def _usage(cls: type[Any]) -> str:
    """The words that must be given."""
    fields = [f for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    flags = [f"{_flag(f)} {f.name.upper()}" for f in fields if not f.metadata["positional"]]
    positional = [f for f in dataclasses.fields(cls) if f.metadata["positional"]]
    words = [_flag(f) if f in fields else f"[{_flag(f)}]" for f in positional]
    return " ".join([*words, *flags, "[options]"])


def _add_flag(
    parser: argparse._ActionsContainer, field: dataclasses.Field[Any], hint: object
) -> None:
    text = field.metadata["help"].replace("%", "%%")
    if field.default not in (dataclasses.MISSING, None, ()):
        text += f" (default: {field.default})"
    kind, count = _element(hint)
    if field.metadata["positional"]:
        if count == "+" and field.default is not dataclasses.MISSING:
            count = "*"
        parser.add_argument(field.name, nargs=count, metavar=_flag(field), help=text)
        return
    if kind is bool:
        parser.add_argument(_flag(field), action=argparse.BooleanOptionalAction, help=text)
        return
    name = field.name.upper()
    if typing.get_origin(kind) is Literal:
        name = f"{{{','.join(typing.get_args(kind))}}}"
    convert = functools.partial(_from_word, kind)
    parser.add_argument(_flag(field), type=convert, nargs=count, metavar=name, help=text)


@dataclasses.dataclass(frozen=True)
class _NumberOr:
    """The type ``int | Literal["word"]``: a whole number, or one of a few words."""

    words: tuple[str, ...]


def _element(hint: object) -> tuple[Any, int | str | None]:
    """The type of one value and how many there are (None: exactly one, "+": any number)."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(parts) == 2 and parts[0] is int:
            return _NumberOr(typing.get_args(parts[1])), None
        (hint,) = parts
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        return items[0], "+" if items[-1] is Ellipsis else len(items)
    return hint, None


def _from_word(kind: Any, word: str) -> Any:
    """A word of the command line as a value of ``kind``.

    Raises:
        argparse.ArgumentTypeError: saying what was expected.
    """
    is_number = kind in (int, float) or (isinstance(kind, _NumberOr) and word not in kind.words)
    value: Any = word
    if is_number:
        with contextlib.suppress(ValueError):
            value = float(word) if kind is float else int(word)
    try:
        return _scalar(kind, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be {error}") from error


def _checked(hint: Any, value: Any) -> Any:
    """``value`` of a file as the type ``hint``; a ValueError says what was expected."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    kind, count = _element(hint)
    if count is None:
        return _scalar(kind, value)
    if count == "+" and isinstance(value, str | int | float):
        value = [value]  # as on the command line
    if not isinstance(value, list) or (isinstance(count, int) and len(value) != count):
        size = f"of {count} " if isinstance(count, int) else ""
        raise ValueError(f"a list {size}such as [a, b], found {shown(value)}")
    return tuple(_scalar(kind, item) for item in value)


def _scalar(kind: Any, value: Any) -> Any:
    """``value``, which must be a ``kind``; whole numbers are taken for floats."""
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        if value not in words:
            near = nearest(value, words) if isinstance(value, str) else ""
            raise ValueError(f"one of {', '.join(words)}, found {shown(value)}{near}")
        return value
    if isinstance(kind, _NumberOr):
        if isinstance(value, str) and value in kind.words:
            return value
        if type(value) is not int or abs(value) > LARGEST_NUMBER:
            expected = " or ".join(("a whole number", *kind.words))
            raise ValueError(f"{expected}, found {shown(value)}")
        return value
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) is not kind or (kind is int and abs(value) > LARGEST_NUMBER):
        raise ValueError(f"{_EXPECTED[kind]}, found {shown(value)}")
    return value
