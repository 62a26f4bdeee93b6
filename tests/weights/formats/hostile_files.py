# SPDX-License-Identifier: Apache-2.0
"""Files that no reader should touch.

As a program, ``hostile_files.py FOLDER``: read every file of the folder in every way there is, and
print what came of each as JSON.
"""

import contextlib
import copyreg
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from effdet.errors import WeightsError
from effdet.weights import load_checkpoint
from effdet.weights.formats.torch_file import open_torch, read_tensors
from tests.weights.formats.hostile_pickles import (
    ATTACK,
    CANARY,
    EXTENSION,
    costs,
    programs,
    values,
)
from tests.weights.formats.pickle_code import (
    FLOATS,
    OLD_MAGIC,
    dict_of,
    list_of,
    number,
    old_file,
    pickled,
    tensor,
    text,
    tuple_of,
    zip_file,
    zip_of,
)

GOOD = pickled(dict_of({"a": tensor((4,))}))
ENTRIES = {"data.pkl": GOOD, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"}


def zips() -> dict[str, bytes]:
    """Zip files that two readers may see differently, or that are larger than they are."""
    plain = zip_of(ENTRIES)
    directory = plain.index(b"PK\x01\x02")
    first = plain.index(b"PK\x03\x04", 1)
    first_name = plain.index(b"archive/data/0")
    storage = plain.index(b"archive/data/0", directory) - 46  # its record in the directory
    zeros = {**ENTRIES, "data/0": bytes(20_000_000)}
    return {
        "a deflated storage": zip_of(zeros, compression=zipfile.ZIP_DEFLATED),
        "a deflated pickle": zip_of(ENTRIES, compression=zipfile.ZIP_DEFLATED),
        "bzip2": zip_of(ENTRIES, compression=zipfile.ZIP_BZIP2),
        "lzma": zip_of(ENTRIES, compression=zipfile.ZIP_LZMA),
        "names that differ in case": zip_of({**ENTRIES, "DATA.PKL": pickled(ATTACK)}),
        "one name twice": zip_of({"data.pk1": GOOD, "data.pk2": pickled(ATTACK)})
        .replace(b"data.pk1", b"data.pkl")
        .replace(b"data.pk2", b"data.pkl"),
        "two folders": zip_of(ENTRIES).replace(b"archive/version", b"another/version"),
        "no folder": zip_of(ENTRIES).replace(b"archive/", b"archive_"),
        "a name with an end in it": zip_of(ENTRIES).replace(b"version", b"vers\0on"),
        "no pickle": zip_of({"version": b"3\n"}),
        "an empty zip": b"PK\x05\x06" + bytes(18),
        "an empty zip behind a header": b"PK\x03\x04" + b"PK\x05\x06" + bytes(18),
        "two ends": plain + plain[plain.rindex(b"PK\x05\x06") :],
        "an end in the comment": plain[:-2] + b"\x16\0PK\x05\x06" + bytes(18),
        "bytes before": b"PK\x03\x04" + plain,
        "bytes before that are counted": zip_of(ENTRIES, before=b"PK\x03\x04" + bytes(100)),
        "bytes after": plain + b"\0",
        "an end that is cut": plain[:-1],
        "no end": plain[: plain.rindex(b"PK\x05\x06")],
        "a header alone": b"PK\x03\x04",
        "entries on each other": patched(plain, storage + 42, struct.pack("<L", first)),
        "an entry on the directory": patched(plain, storage + 42, struct.pack("<L", directory)),
        "an entry behind the end": patched(plain, storage + 42, struct.pack("<L", 2**31)),
        "an entry of 4 GB": patched(plain, storage + 20, struct.pack("<LL", 2**32 - 2, 2**32 - 2)),
        "an entry of unknown size": patched(plain, storage + 20, struct.pack("<LL", 2**32 - 1, 0)),
        "an entry that says more": patched(plain, storage + 20, struct.pack("<LL", 20, 20)),
        "a storage over other entries": over_others(),
        "an encrypted entry": patched(plain, storage + 8, b"\x01"),
        "an entry deflated in one place": patched(plain, storage + 10, b"\x08"),
        "an entry deflated in the other": patched(plain, first_name - 22, b"\x08"),
        "an entry of another name": patched(plain, first_name, b"b"),
        "a count that is wrong": patched(plain, plain.rindex(b"PK\x05\x06") + 8, b"\x03\0\x03\0"),
        "several disks": patched(plain, plain.rindex(b"PK\x05\x06") + 4, b"\x01"),
        "a directory elsewhere": patched(plain, plain.rindex(b"PK\x05\x06") + 16, bytes(4)),
        "a long end that lies": long_end(plain),
        "a storage that is cut": zip_of({**ENTRIES, "data/0": bytes(12)}),
        "a storage too long": zip_of({**ENTRIES, "data/0": bytes(20)}),
        "big-endian": zip_of({**ENTRIES, "byteorder": b"big"}),
        "no order of bytes": zip_of({**ENTRIES, "byteorder": b"middle"}),
        "code of TorchScript": zip_of({**ENTRIES, "constants.pkl": GOOD, "code/a.py": b"1"}),
        "TorchScript": torchscript(),
        "bytes after the pickle": zip_of({**ENTRIES, "data.pkl": GOOD + pickled(ATTACK)}),
        "a zip in a zip": zip_of({**ENTRIES, "data.pkl": plain}),
    }  # fmt: skip


def others() -> dict[str, bytes]:
    """Files of other forms, and of PyTorch's old one."""
    code = dict_of({"a": tensor((4,), old=True)})
    good = old_file(code, {"0": bytes(16)})
    view = tuple_of(text("1"), number(0), number(1))
    return {
        "a tar": tar_of({"storages": pickled(ATTACK), "tensors": pickled(ATTACK), "pickle": GOOD}),
        "a tar that begins as PyTorch": tar_of({OLD_MAGIC.decode("latin1"): pickled(ATTACK)}),
        "a plain pickle": pickle.dumps({"a": [1.0]}, protocol=2),
        "a plain pickle of protocol 5": pickle.dumps({"a": [1.0]}, protocol=5),
        "a pickle in text": pickle.dumps({"a": 1}, protocol=0),
        "old, another version": old_file(b"}", version=pickled(number(1002))),
        "old, a program as version": old_file(b"}", version=pickled(ATTACK)),
        "old, a program as machine": old_file(b"}", machine=pickled(ATTACK)),
        "old, a program as keys": old_file(b"}", keys=pickled(ATTACK)),
        "old, big-endian": old_file(b"}", machine=pickled(dict_of({"little_endian": b"\x89"}))),
        "old, no machine": old_file(b"}", machine=pickled(b"N")),
        "old, a storage not filled": old_file(code, {}, keys=pickled(b"]")),
        "old, a storage filled twice": old_file(
            code, {"0": bytes(16)}, keys=pickled(list_of(text("0"), text("0")))
        ),
        "old, keys that are no texts": old_file(
            code, {"0": bytes(16)}, keys=pickled(list_of(b"]"))
        ),
        "old, a storage that is cut": good[:-1],
        "old, bytes after": good + b"\0",
        "old, another count": good[:-24] + struct.pack("<q", 3) + bytes(16),
        "old, a count of -1": good[:-24] + b"\xff" * 8 + bytes(16),
        "old, a view of a storage": old_file(
            tuple_of(text("storage"), FLOATS, text("0"), text("cpu"), number(4), view) + b"Q"
        ),
        "nothing": b"",
        "text": b"<html>404</html>",
        "gzip": b"\x1f\x8b" + bytes(100),
    }


def patched(content: bytes, at: int, change: bytes) -> bytes:
    return content[:at] + change + content[at + len(change) :]


def over_others() -> bytes:
    """With a storage of 16 bytes that has 32 by the directory and by its tensor."""
    plain = zip_of({**ENTRIES, "data.pkl": pickled(dict_of({"a": tensor((8,))}))})
    storage = plain.rindex(b"archive/data/0") - 46
    return patched(plain, storage + 20, struct.pack("<LL", 32, 32))


def long_end(plain: bytes) -> bytes:
    """With an end for large files that names another directory than the short one."""
    end = plain.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HLL", plain, end + 10)
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size - 1, start)
    return plain[:end] + long + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + plain[end:]


def tar_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", encoding="latin1", format=tarfile.GNU_FORMAT) as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


def corpus() -> dict[str, bytes]:
    """Every file, by a name that says what is wrong with it; pickles in both forms."""
    four = {"0": bytes(4)}
    now = {**programs(), **costs(), **values()}
    before = {**programs(old=True), **costs(), **values(old=True)}
    return {
        **zips(),
        **others(),
        **{kind: zip_file(code, four) for kind, code in now.items()},
        **{f"old, {kind}": old_file(code, four) for kind, code in before.items()},
    }


WAYS: dict[str, Callable[[Path], object]] = {
    "read_tensors": read_tensors,
    "open_torch": open_torch,
    "inert": lambda path: open_torch(path, inert=True),
    "load_checkpoint": load_checkpoint,
}


def outcomes(path: Path) -> Iterator[tuple[str, str]]:
    """What each way to read makes of ``path``: the error's message."""
    for way, read in WAYS.items():
        try:
            read(path)
        except WeightsError as error:
            yield way, str(error)
        except BaseException as error:
            yield way, f"UNEXPECTED {error!r}"
        else:
            yield way, "READ"


def runs(code: bytes) -> bool:
    """Whether Python's own unpickler runs ``code``."""
    unpickler = pickle.Unpickler(io.BytesIO(pickled(code)))
    unpickler.persistent_load = lambda identity: identity  # type: ignore[method-assign]
    with contextlib.suppress(Exception):
        unpickler.load()
    for _ in range(100):
        if Path(CANARY).exists():
            Path(CANARY).rmdir()
            return True
        time.sleep(0.02)  # a process may have been started
    return False


def memory(name: str) -> int:
    """Bytes in memory: now (``VmRSS``) or at most (``VmHWM``)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def main(folder: Path) -> None:
    os.chdir(folder)
    copyreg.add_extension("os", "mkdir", EXTENSION)
    results = {}
    Path("/proc/self/clear_refs").write_text("5")  # the most from now on
    before = memory("VmRSS")
    for path in sorted(folder.glob("*.pt")):
        start = time.process_time()
        messages = dict(outcomes(path))
        results[path.name] = {
            "messages": messages,
            "seconds": (time.process_time() - start) / len(WAYS),
            "ran": Path(CANARY).exists(),
        }
    most = memory("VmHWM") - before
    alive = {way: runs(code) for way, code in programs().items()}
    print(json.dumps({"files": results, "memory": most, "alive": alive}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
