# SPDX-License-Identifier: Apache-2.0
"""YAML files for settings: words, numbers and lists, each meaning what it looks like.

Read by the core schema of YAML 1.2: ``1e-3`` is a number, ``no`` and ``12:30`` are text, ``012`` is
twelve. What could run, repeat or hide something is an error with its line and column: tags,
anchors and aliases, merge keys, a key given twice, a second document.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from effdet.errors import UsageError, one_line, shown
from effdet.files.regular import open_regular

MAX_BYTES = 100_000
"""Many times what all settings need, and read in two seconds at the most."""
MAX_DEPTH = 20
MAX_DIGITS = 400
"""Digits of a number; Python needs seconds for one of a million."""

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


@dataclass(frozen=True)
class Entry:
    """One ``key: value`` of a file.

    Attributes:
        value: None, bool, int, float, str, or a list or dict of them.
        place: ``file:line:column`` of the value.
        key_place: that of its key.
    """

    value: Any
    place: str
    key_place: str


def read_yaml(path: str | Path, *, numbered: bool = False) -> dict[str, Entry]:
    """The ``key: value`` lines of a file.

    Args:
        path: the file.
        numbered: whether keys may be whole numbers, which are then given as text.

    Raises:
        UsageError: naming file, line and column, and what was expected there.
    """
    try:
        return _Reader(path, _text(path), numbered).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        reasons = filter(None, (error.context, error.problem))
        raise UsageError(f"{place}: not YAML: {', '.join(reasons)}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not YAML: {one_line(error)}") from error


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Text that :func:`read_yaml` and programs with YAML 1.1 read as ``values``."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes text that is a number or a word of any version of YAML; repeats instead of aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in (("int", _INT), ("float", _FLOAT)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def _text(path: str | Path) -> str:
    """The content of a regular file that is neither too large nor in another encoding."""
    with open_regular(path, "configuration file", UsageError, MAX_BYTES) as file:
        content = file.read(MAX_BYTES)
    return _decoded(content, path)


def _decoded(content: bytes, path: str | Path) -> str:
    """``content`` as text; an error where it is not UTF-8 or has characters that YAML has not."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        place = _place(path, content[: error.start].decode())
        found = f"byte 0x{content[error.start]:02x}"
        raise UsageError(f"{place}: not a YAML file in UTF-8: {found}") from error
    if (bad := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        place = _place(path, text[: bad.start()])
        raise UsageError(f"{place}: not a YAML file: character {bad.group()!a}")
    return text


def _place(path: str | Path, before: str) -> str:
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"{path}:{line}:{column}"


class _Reader:
    """Builds values from the parser's events, so that nothing of a tag or an alias is acted on."""

    def __init__(self, path: str | Path, text: str, numbered: bool = False) -> None:
        self.path, self.numbered = path, numbered
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> dict[str, Entry]:
        next(self.events)  # the stream's start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            raise UsageError(f"{self.path}: expected 'option: value' lines, found nothing")
        event = next(self.events)
        if not isinstance(event, yaml.MappingStartEvent):
            value = self.value(event, 0)
            kind = "a list" if isinstance(value, list) else shown(value)
            self.fail(event, f"expected 'option: value' lines, found {kind}")
        entries = self.mapping(event, 0)
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.fail(event, "expected one document, found a second one")
        return entries

    def value(self, event: yaml.Event, depth: int) -> Any:
        """The value that begins with ``event``."""
        self.check(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return {key: entry.value for key, entry in self.mapping(event, depth).items()}
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                items.append(self.value(item, depth + 1))
            return items
        assert isinstance(event, yaml.ScalarEvent)
        return self.scalar(event)

    def mapping(self, start: yaml.Event, depth: int) -> dict[str, Entry]:
        self.check(start, depth)
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event)
            if key in entries:
                first = entries[key].key_place.removeprefix(f"{self.path}:").split(":")[0]
                self.fail(event, f"{shown(key)} is given twice, first in line {first}")
            item = next(self.events)
            entries[key] = Entry(self.value(item, depth + 1), self.place(item), self.place(event))
        return entries

    def key(self, event: yaml.Event) -> str:
        if isinstance(event, yaml.AliasEvent):
            self.check(event, 0)
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(event, "expected the name of an option, found a list or a mapping")
        self.check(event, 0)
        if event.implicit[0] and event.value == "<<":
            self.fail(event, "merge keys (<<) are not read; write the values out")
        key = self.scalar(event)
        if self.numbered and type(key) is int:
            return str(key)
        if not isinstance(key, str):
            self.fail(event, f"expected the name of an option, found {shown(key)}")
        return key

    def check(self, event: yaml.Event, depth: int) -> None:
        """Refuse what makes one value of another, or more of one than is written."""
        if isinstance(event, yaml.AliasEvent):
            self.fail(event, f"aliases (*{event.anchor}) are not read; write the value out")
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.anchor is not None:
            self.fail(event, f"anchors (&{event.anchor}) are not read; leave it out")
        if event.tag is not None:
            self.fail(event, f"tags ({event.tag}) are not read; write the value alone")
        if depth > MAX_DEPTH:
            self.fail(event, f"nested more than {MAX_DEPTH} deep")

    def scalar(self, event: yaml.ScalarEvent) -> bool | int | float | str | None:
        """The value that plain text has in YAML 1.2's core schema; quoted text is text."""
        text: str = event.value
        if not event.implicit[0]:
            return text
        if _NULL.fullmatch(text):
            return None
        if (found := _BOOL.fullmatch(text)) is not None:
            return found[1] is not None
        is_int = _INT.fullmatch(text) is not None
        if not is_int and not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_DIGITS:
            self.fail(event, f"a number of {len(text)} characters; quote it if it is text")
        if is_int:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def place(self, event: yaml.Event) -> str:
        """``file:line:column`` where ``event`` begins."""
        mark = event.start_mark
        assert mark is not None
        return f"{self.path}:{mark.line + 1}:{mark.column + 1}"

    def fail(self, event: yaml.Event, text: str) -> NoReturn:
        raise UsageError(f"{self.place(event)}: {text}")
