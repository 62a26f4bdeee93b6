# SPDX-License-Identifier: Apache-2.0
"""Images at addresses: fetched into memory, over https alone, never more than an image's size."""

import re
import time
from urllib.parse import urlsplit

from effdet.data.image_file import MAX_BYTES
from effdet.errors import DataError, printable
from effdet.files import megabytes
from effdet.web import UnreachableError, open_url, say

PATIENCE = 15.0
"""Seconds without a byte after which an address is given up."""

LONGEST = 60.0
"""Seconds that an image may take to arrive."""

_BLOCK = 1 << 16
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_address(word: str) -> bool:
    """Whether ``word`` begins with a scheme such as ``https://``."""
    return _ADDRESS.match(word) is not None


def path_of(address: str) -> str:
    """The path in an address, such as ``/photos/a.jpg``.

    Raises:
        DataError: for an address that cannot be one.
    """
    try:
        return urlsplit(address).path
    except ValueError as error:
        raise DataError(f"{printable(address)}: not an address") from error


def shown_address(address: str) -> str:
    """``address`` without what may be secret: the user, the password and the query."""
    scheme, rest = address.split("://", 1)
    host, slash, path = rest.partition("/")
    clean = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return printable(re.split(r"[?#]", clean)[0])


def fetch(address: str) -> bytes:
    """The content of the file at ``address``, which is printed on standard error.

    Raises:
        DataError: for one that is not https, cannot be reached, or gives too much.
    """
    shown = shown_address(address)
    if "@" in address.split("/")[2]:
        raise DataError(f"{shown}: an address with a user or a password is not fetched")
    say(f"fetching {shown}")
    try:
        with open_url(address, PATIENCE) as answer:
            content = bytearray()
            deadline = time.monotonic() + LONGEST
            while block := answer.read1(_BLOCK):
                content += block
                if len(content) > MAX_BYTES:
                    raise UnreachableError(f"the file has more than {megabytes(MAX_BYTES)}")
                if time.monotonic() > deadline:
                    raise UnreachableError(f"it takes longer than {LONGEST:g} s")
            if answer.length:  # bytes that were promised
                raise UnreachableError(f"it broke off after {megabytes(len(content))}")
    except UnreachableError as error:
        reason = printable(str(error)).replace(address, shown)
        raise DataError(f"{shown}: cannot be fetched: {reason}") from error
    return bytes(content)
