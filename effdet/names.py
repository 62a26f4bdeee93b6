# SPDX-License-Identifier: Apache-2.0
"""Names out of files of others (classes, images, models) on their way out.

In a terminal they must not move the cursor, in a table not be a formula, as a file name not lead
elsewhere or be one that some system cannot have.
"""

import json
import re
import sys
from typing import Any

from effdet.errors import printable, printable_lines

LONGEST_SHOWN = 60
"""Characters of a name in a table or picture."""

LONGEST_FILE_NAME = 255
"""Bytes of a file name that every usual file system takes."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I)


def say(text: str) -> None:
    """Print ``text``, of one line or several, with nothing that a terminal would obey."""
    print(printable_lines(text))


def tell(text: str) -> None:
    """Print ``text`` on standard error as one line, with nothing that a terminal would obey."""
    print(printable(text), file=sys.stderr, flush=True)


def shown_name(name: str) -> str:
    """``name`` for a table or a picture: printable and at most :data:`LONGEST_SHOWN` long."""
    text = printable(name[: LONGEST_SHOWN + 1])
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def csv_value(value: Any) -> Any:
    """``value`` as a cell that no spreadsheet runs: text that begins like a formula gets a ``'``.

    As OWASP advises against CSV injection; numbers stay as they are.
    """
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value


def json_text(value: Any, indent: int | None) -> str:
    """``value`` as JSON in UTF-8: letters of all languages, what is not printable as its escape.

    Raises:
        ValueError: for numbers that are not finite.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def file_name(stem: str, suffix: str = "") -> str:
    """``stem + suffix`` as a file name that is one on every system; the stem gives way.

    Args:
        stem: any text.
        suffix: a harmless ending, such as ".png".
    """
    text = "".join(c if c.isprintable() else "_" for c in stem)
    text = _NO_FILE_NAME.sub("_", text).strip(" ")
    if not suffix:
        text = text.rstrip(". ")
    if not text or text[0] in ".-~" or _RESERVED.fullmatch(text):
        text = "_" + text
    room = LONGEST_FILE_NAME - len(suffix.encode())
    return text.encode()[:room].decode(errors="ignore") + suffix
