# SPDX-License-Identifier: Apache-2.0
"""Pickles written by hand, operation by operation, and the files of PyTorch around them."""

import io
import struct
import zipfile
from collections.abc import Mapping

PROTOCOL = b"\x80\x02"
STOP = b"."
OLD_MAGIC = PROTOCOL + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_VERSION = PROTOCOL + b"M\xe9\x03."


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_of(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def keep(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def recall(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


ORDERED_DICT = name("collections", "OrderedDict")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
FLOATS = name("torch", "FloatStorage")


def storage(count: int, key: str = "0", kind: bytes = FLOATS, old: bool = False) -> bytes:
    items = [text("storage"), kind, text(key), text("cpu"), number(count)]
    return tuple_of(*items, *([b"N"] if old else [])) + b"Q"


def tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    *,
    stored: int | None = None,
    offset: int = 0,
    key: str = "0",
    old: bool = False,
) -> bytes:
    """A float tensor in a storage of ``stored`` elements, by default just those of it."""
    if strides is None:
        strides = tuple(1 for _ in shape)
    numel = 1
    for size in shape:
        numel *= size
    return call(
        REBUILD,
        storage(numel if stored is None else stored, key, old=old),
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, strides)),
        b"\x89",
        call(ORDERED_DICT),
    )


def pickled(value: bytes) -> bytes:
    return PROTOCOL + value + STOP


def zip_of(
    entries: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED, before: bytes = b""
) -> bytes:
    file = io.BytesIO(before)
    with zipfile.ZipFile(file, "a", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{entry}"), content, compression)
    return file.getvalue()


def zip_file(value: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """The form of today: ``value`` is the code of a pickle without its frame."""
    data = {f"data/{key}": content for key, content in (storages or {}).items()}
    return zip_of({"data.pkl": pickled(value), "byteorder": b"little", **data, "version": b"3\n"})


def old_file(
    value: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    version: bytes = OLD_VERSION,
    machine: bytes | None = None,
    keys: bytes | None = None,
) -> bytes:
    """The form before PyTorch 1.6, of floats."""
    storages = storages or {}
    if machine is None:
        machine = pickled(dict_of({"protocol_version": number(1001), "little_endian": b"\x88"}))
    if keys is None:
        keys = pickled(list_of(*map(text, storages)))
    data = b"".join(struct.pack("<q", len(c) // 4) + c for c in storages.values())
    return OLD_MAGIC + version + machine + pickled(value) + keys + data
