# SPDX-License-Identifier: Apache-2.0
"""Command-line flags and YAML files made from the fields of a dataclass.

A field written with :func:`option` is a flag: its name, type, default and help are those of the
field. Values come, later ones winning, from the defaults, a preset, ``--config FILE`` and flags.
"""

import argparse
import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

import yaml

from effdet.errors import UsageError, nearest
from effdet.files import replace_text

Config = TypeVar("Config")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    positional: bool = False,
    in_file: bool = True,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: its value where none is given; without one it must be.
        help: one line that names the unit.
        positional: whether it takes words without a flag.
        in_file: whether a ``--config`` file may set it.
    """
    metadata = {"help": help, "positional": positional, "in_file": in_file}
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
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    if presets:
        parser.add_argument("--preset", choices=sorted(presets), help="named set of values")
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        _add_flag(parser, field, hints[field.name])
    given = vars(parser.parse_known(argv)).items()
    flags: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
    flags.pop("debug", None)
    values = dict(saved(flags)) if saved is not None else {}
    values |= (presets or {}).get(flags.pop("preset", ""), {})
    if "config" in flags:
        values |= load_yaml(cls, flags.pop("config"))
    return build(cls, values | flags)


def load_yaml(cls: type[Any], path: str | Path) -> dict[str, Any]:
    """The values of a YAML file, every key checked against the fields of ``cls``."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such configuration file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected 'option: value' lines, found {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UsageError(f"{path}: unknown option {key!r}{nearest(str(key), fields)}")
        if not fields[key].metadata["in_file"]:
            raise UsageError(f"{path}: give {_flag(fields[key])} on the command line, not here")
    return {key: _checked(cls, key, value, path) for key, value in values.items()}


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
    replace_text(path, yaml.safe_dump(values, sort_keys=False))


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


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: object) -> None:
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
    elif typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        parser.add_argument(_flag(field), choices=choices, nargs=count, help=text)
    elif count is not None:
        convert: Any = kind
        name = field.name.upper()
        parser.add_argument(_flag(field), type=convert, nargs=count, metavar=name, help=text)
    else:
        convert = kind
        parser.add_argument(_flag(field), type=convert, metavar=field.name.upper(), help=text)


@dataclasses.dataclass(frozen=True)
class _NumberOr:
    """The type ``int | Literal["word"]``: a whole number, or one of a few words."""

    words: tuple[str, ...]

    @property
    def __name__(self) -> str:
        return " or ".join(("a whole number", *self.words))

    def __call__(self, text: str) -> int | str:
        return text if text in self.words else int(text)


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


def _checked(cls: type[Any], key: str, value: Any, path: str | Path) -> Any:
    """``value`` as the type of field ``key``, or an error that names file, field and value."""
    hint = typing.get_type_hints(cls)[key]
    optional = type(None) in typing.get_args(hint)
    if value is None and optional:
        return None
    kind, count = _element(hint)
    if count is not None:
        if not isinstance(value, list) or (isinstance(count, int) and len(value) != count):
            raise UsageError(f"{path}: {key} must be a list, found {value!r}")
        return tuple(_scalar(kind, key, item, path) for item in value)
    return _scalar(kind, key, value, path)


def _scalar(kind: Any, key: str, value: Any, path: str | Path) -> Any:
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            choices = ", ".join(map(str, typing.get_args(kind)))
            raise UsageError(f"{path}: {key} must be one of {choices}, found {value!r}")
        return value
    if isinstance(kind, _NumberOr):
        if isinstance(value, str) and value in kind.words:
            return value
        if type(value) is not int:
            raise UsageError(f"{path}: {key} must be {kind.__name__}, found {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 4e-5, without a dot, as a word.
        with contextlib.suppress(ValueError):
            return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{path}: {key} must be {kind.__name__}, found {value!r}")
    return value
