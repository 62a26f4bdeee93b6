# SPDX-License-Identifier: Apache-2.0
"""Reading a JSON file by the fast way, and where that stops by the exact one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from effdet.annotations.faults import AnnotationError, Faults
from effdet.annotations.json_file import (
    MAX_BYTES,
    MAX_EXACT_BYTES,
    FinalError,
    MalformedError,
    add_syntax_fault,
    load_exactly,
)
from effdet.annotations.stream import Stream, check_json
from effdet.files.regular import open_regular


class Content(Protocol):
    """What is filled from a file, by either way."""

    def read_stream(self, stream: Stream) -> None:
        """Read the file's value piece by piece."""

    def read_value(self, value: Any) -> None:
        """Take the file's value."""


C = TypeVar("C", bound=Content)


def read_file(path: str | Path, what: str, faults: Faults, make: Callable[[], C]) -> C:
    """The content of a file; what is wrong with it goes to ``faults``.

    Args:
        path: the file.
        what: how messages call it, such as ``annotation file``.
        faults: collects.
        make: begins a content that writes to ``faults``.

    Raises:
        AnnotationError: where there is no such file, or it cannot be read.
    """
    with open_regular(path, what, AnnotationError, MAX_BYTES) as file:
        content = make()
        try:
            stream = Stream(file)
            content.read_stream(stream)
            if not len(faults):
                stream.end()
        except MalformedError as error:
            faults.clear()
            content = make()
            _read_exactly(file, content, faults, error)
        return content


def _read_exactly(file: BinaryIO, content: Content, faults: Faults, first: MalformedError) -> None:
    """Find what is wrong with a file in which the fast way stopped at ``first``."""
    size = file.seek(0, os.SEEK_END)
    if isinstance(first, FinalError) or size > MAX_EXACT_BYTES:
        add_syntax_fault(faults, file, first)
        return
    file.seek(0)
    data = file.read(MAX_EXACT_BYTES)
    try:
        content.read_value(load_exactly(data))
        if not len(faults):  # numbers that are none, in a field that is not read
            check_json(data, first.offset)
    except MalformedError as error:
        faults.clear()
        add_syntax_fault(faults, file, error)
