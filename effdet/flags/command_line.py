# SPDX-License-Identifier: Apache-2.0
"""The command line of a program: its options, its ``--help``, its values."""

import argparse
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from effdet.errors import SettingError, UsageError, nearest
from effdet.flags.option import advice_on, flag_name, flag_of
from effdet.flags.values import NumberOr, element_of, from_word
from effdet.flags.yaml_options import load_yaml

Config = TypeVar("Config")

_TYPED = "_typed"
"""Attribute of settings with the names of the fields that somebody wrote down."""


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


class _Help(argparse.HelpFormatter):
    """``--sizes N ...`` where argparse says ``--sizes N [N ...]``; lines of a help stay lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        text = super()._format_args(action, default_metavar)
        return f"{action.metavar} ..." if action.nargs == "+" else text

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = text.splitlines()
        return [part for line in lines for part in super(_Help, self)._split_lines(line, width)]


def parse(
    cls: type[Config],
    argv: Sequence[str],
    *,
    program: str,
    description: str,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    about_presets: Mapping[str, str] | None = None,
    saved: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Config:
    """Read ``argv`` into the dataclass ``cls``.

    Args:
        cls: a dataclass whose fields are :func:`option`.
        argv: the words after the program's name.
        program: the name shown in ``--help``.
        description: one line for ``--help``.
        presets: name -> values that ``--preset NAME`` puts before the file and the flags.
        about_presets: name -> a line for ``--help``.
        saved: gives, from the flags, values of an earlier run that go before everything else.

    Raises:
        UsageError: for an unknown option, preset or key, or a value that does not fit.
    """
    parser = _build_parser(cls, program, description, presets or {}, about_presets or {})
    given = vars(parser.parse_known(argv)).items()
    flags: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
    flags.pop("debug", None)
    values = dict(saved(flags)) if saved is not None else {}
    values |= (presets or {}).get(flags.pop("preset", ""), {})
    path = flags.pop("config", None)
    written = {} if path is None else load_yaml(cls, path)
    try:
        return build(cls, values | written | flags, typed={*written, *flags})
    except SettingError as error:
        if error.name in flags:
            raise UsageError(f"{flag_name(error.name)} {error.text}") from error
        if error.name in written:
            raise UsageError(f"{path}: {error}") from error
        raise


def _build_parser(
    cls: type[Any],
    program: str,
    description: str,
    presets: Mapping[str, Mapping[str, Any]],
    about_presets: Mapping[str, str],
) -> _Parser:
    """With an option for each field of ``cls``, and those that every program has."""
    parser = _Parser(
        prog=program,
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=_Help,
        usage=f"{program} {_usage(cls)}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    if presets:
        choice = functools.partial(from_word, Literal[tuple(sorted(presets))])
        about = {name: f": {about_presets[name]}" for name in presets if name in about_presets}
        lines = [name + about.get(name, "") for name in sorted(presets)]
        text = "\n".join(["named set of values:", *lines]).replace("%", "%%")
        parser.add_argument("--preset", type=choice, metavar="NAME", help=text)
    hints = typing.get_type_hints(cls)
    for heading, fields in _groups(cls).items():
        group = parser.add_argument_group(heading) if heading else parser
        for field in fields:
            _add_flag(group, field, hints[field.name])
    return parser


def build(cls: type[Config], values: Mapping[str, Any], *, typed: Collection[str] = ()) -> Config:
    """``cls(**values)``, with a missing value named as its flag.

    Args:
        cls: a dataclass whose fields are :func:`option`.
        values: of its fields.
        typed: the fields that somebody wrote down, for :func:`is_asked`.
    """
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # Config is one
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UsageError(f"{flag_of(field)} is needed: {field.metadata['help']}")
    config = cls.__new__(cls)
    object.__setattr__(config, _TYPED, frozenset(typed))  # its __post_init__ may ask already
    cls.__init__(config, **values)
    return config


def is_asked(config: object, name: str) -> bool:
    """Whether somebody asked for the value of a field of ``config``.

    On the command line and in a ``--config`` file whatever stands there is asked for, be it the
    default; otherwise what differs from the default.
    """
    typed: frozenset[str] = getattr(config, _TYPED, frozenset())
    return name in typed or getattr(config, name) != getattr(
        type(config), name, dataclasses.MISSING
    )


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
    hints = typing.get_type_hints(cls)
    words, flags = [], []
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING
        if field.metadata["positional"]:
            word = flag_of(field) + "..." * (element_of(hints[field.name])[1] == "+")
            words.append(word if needed else f"[{word}]")
        elif needed:
            flags.append(f"{flag_of(field)} {_metavar(field, hints[field.name])}")
    return " ".join([*words, *flags, "[options]"])


def _metavar(field: dataclasses.Field[Any], hint: object) -> str:
    """What stands for one value of an option."""
    kind, _ = element_of(hint)
    if field.metadata["metavar"]:
        return str(field.metadata["metavar"])
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(typing.get_args(kind))}}}"
    if isinstance(kind, NumberOr):
        return "|".join(("N", *kind.words))
    return {int: "N", float: "X"}.get(kind, field.name.upper())


def _default(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, tuple):
        return " ".join(map(_default, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _add_flag(
    parser: argparse._ActionsContainer, field: dataclasses.Field[Any], hint: object
) -> None:
    text = field.metadata["help"].replace("%", "%%")
    if field.default not in (dataclasses.MISSING, None, (), ""):
        text += f" (default: {_default(field.default)})"
    kind, count = element_of(hint)
    if field.metadata["positional"]:
        if count == "+" and field.default is not dataclasses.MISSING:
            count = "*"
        parser.add_argument(field.name, nargs=count, metavar=flag_of(field), help=text)
    elif kind is bool:
        parser.add_argument(flag_of(field), action=argparse.BooleanOptionalAction, help=text)
    else:
        name, convert = _metavar(field, hint), functools.partial(_value, field, kind)
        parser.add_argument(flag_of(field), type=convert, nargs=count, metavar=name, help=text)


def _value(field: dataclasses.Field[Any], kind: Any, word: str) -> Any:
    """What a word after the flag of ``field`` means."""
    try:
        return from_word(kind, word)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}{advice_on(field, word)}") from error
