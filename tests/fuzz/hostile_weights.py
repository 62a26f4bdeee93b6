# SPDX-License-Identifier: Apache-2.0
"""Weights files that somebody made to do harm, by what is wrong with them."""

import copy
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from effdet.weights.digest import save_with_digest
from tests.weights import tf_writer
from tests.weights.formats.hostile_files import corpus

HUGE = 10**300
PICKLES = [
    "os.mkdir", "os.system", "eval", "exec by getattr", "__import__", "a pickle in a pickle",
    "BUILD", "STACK_GLOBAL", "in a state dict", "in hooks", "old, os.system", "old, INST",
    "a deflated storage", "entries on each other", "names that differ in case", "one name twice",
    "an entry of 4 GB", "an entry that says more", "TorchScript", "two ends", "a zip in a zip",
    "8 GB of zeros", "2**40 leaves", "50,000 deep", "a dict in itself", "keys of one hash",
    "a dict copied again and again", "2,100,000 operations", "a pickle of 20 MB",
    "a tensor of 2**40 zeros", "a tensor of negative strides", "a tensor from beyond",
    "a storage of 2**40", "a storage of two sizes", "a sparse tensor", "a meta tensor",
    "a number of 2 GB", "a text of 4 GB", "bytes of 2**40", "protocol 5", "a module",
    "old, a count of -1", "old, a storage filled twice", "a plain pickle of protocol 5",
]  # fmt: skip
"""Of the corpus of pickles, which has its own test, those that go through every door."""

Values = dict[str, Any]


def kinds(folder: Path, good: Path, published: Path, every: int = 1) -> dict[str, Path]:
    """Every hostile file, written below ``folder``.

    Args:
        folder: empty.
        good: a checkpoint of a run.
        published: safetensors of the same model.
        every: only each kind whose number this divides.
    """
    found: dict[str, Path] = {}

    def place(kind: str, suffix: str) -> Path:
        found[kind] = folder / f"{len(found):03}{suffix}"
        return found[kind]

    pickles = corpus()
    for kind in PICKLES:
        place(kind, ".pt").write_bytes(pickles[kind])
    place("a program called .safetensors", ".safetensors").write_bytes(pickles["os.system"])
    for kind, change in changes().items():
        path = place(kind, ".pt")
        if (len(found) - 1) % every == 0:  # they take long
            write_changed(good, change, path)
    for kind, content in safetensors(published.read_bytes()):
        place(kind, ".safetensors").write_bytes(content)
    with place("safetensors: a header of 200 MB", ".safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000) + b"{")
        file.truncate(300_000_000)
    for kind, content in indices():
        place(kind, ".index").write_bytes(content)
    for kind, write in hdf5().items():
        write(place(kind, ".h5"))
    for kind, content in strangers().items():
        place(kind, ".pt").write_bytes(content)
    os.mkfifo(place("a pipe", ".pt"))
    place("a folder", ".pt").mkdir()
    place("a device", ".pt").symlink_to("/dev/zero")
    place("a loop of links", ".pt").symlink_to(found["a loop of links"])
    found["a name that is too long"] = folder / ("x" * 300 + ".pt")
    return dict(list(found.items())[::every])


def write_changed(good: Path, change: Callable[[Values], object], path: Path) -> None:
    """Another content of a checkpoint, with a right digest."""
    values = torch.load(good, weights_only=True)
    change(values)
    with path.open("wb") as file:
        save_with_digest(values, file)


def changes() -> dict[str, Callable[[Values], object]]:
    """What somebody may change in a checkpoint of ours before writing a right digest."""

    def config(**values: Any) -> Callable[[Values], object]:
        return lambda v: v["model_config"].update(values)

    def state(value: Any) -> Callable[[Values], object]:
        return lambda v: [
            s.update({_first(s): value(s[_first(s)])}) for s in (v["model"], v["ema"])
        ]

    def names(change: Callable[[Values], object]) -> Callable[[Values], object]:
        return lambda v: change(v["class_map"])

    return {
        "a width of 10**6": config(width=10**6),
        "a width of 2**1000": config(width=2**1000),
        "10**9 cells": config(bifpn_cells=10**9),
        "10**9 repeats": config(head_repeats=10**9),
        "as large as may be": config(width=1024, bifpn_cells=32, head_repeats=32),
        "10**12 classes": config(num_classes=10**12),
        "an input of 2**40 pixels": config(image_size=[2**20, 2**20]),
        "an input of 16384 x 16384": config(image_size=[2**14, 2**14]),
        "an infinite input": config(image_size=[math.inf, 64]),
        "a level of 10**6": config(max_level=10**6),
        "10**6 ratios": config(aspect_ratios=[1.0] * 100_000),
        "a mean of nan": config(mean=[math.nan] * 3),
        "a mean of 10**300": config(mean=[HUGE] * 3),
        "a std of 0": config(std=[0.0, 1.0, 1.0]),
        "a word for a width": config(width="64"),
        "a list for a backbone": config(backbone=["efficientnet_b0"]),
        "a text of 4 MB for a backbone": config(backbone="e" * 4_000_000),
        "an unknown setting": config(code="import os"),
        "a number for the settings": lambda v: v.update(model_config=3),
        "500,000 names": names(lambda m: m.update(names=["a"] * 400_000)),
        "a name of 4 MB": names(lambda m: m.update(names=["a" * 4_000_000, "b"])),
        "a number for a name": names(lambda m: m.update(names=[1, 2])),
        "an id of 2**70": names(lambda m: m.update(category_ids=[2**70, 1])),
        "a list for an id": names(lambda m: m.update(category_ids=[[1], [2]])),
        "one id twice": names(lambda m: m.update(category_ids=[1, 1])),
        "no class": names(lambda m: m.update(names=[None, None], category_ids=[None, None])),
        "weights of another shape": state(lambda t: torch.zeros(3)),
        "one number for all": state(lambda t: torch.zeros(1).expand(t.shape)),
        "complex weights": state(lambda t: t.to(torch.complex64)),
        "whole weights": state(lambda t: t.to(torch.int32)),
        "weights of 8 bits": state(lambda t: t.to(torch.float8_e4m3fn)),
        "weights of nan": state(lambda t: torch.full_like(t, math.nan)),
        "weights missing": lambda v: [s.pop(_first(s)) for s in (v["model"], v["ema"])],
        "a weight too many": lambda v: v["model"].update({"x\x1b[2J": torch.zeros(1)}),
        "a list for a weight": state(lambda t: t.tolist()),
        "weights that share": _share,
        "a version of 2**2000": lambda v: v.update(version=2**2000),
        "another choice": lambda v: v.update(chosen="both"),
    }


def damaged_training() -> dict[str, Callable[[Values], object]]:
    """Changes of what only ``--resume`` reads."""

    def put(**values: Any) -> Callable[[Values], object]:
        return lambda v: v["training"].update(values)

    def moment(change: Callable[[Any], Any]) -> Callable[[Values], object]:
        def _change(v: Values) -> None:
            entry = next(e for e in v["training"]["optimizer"]["state"].values() if e)
            for name in entry:
                entry[name] = change(entry[name])

        return _change

    def rank(**values: Any) -> Callable[[Values], object]:
        return lambda v: v["training"]["ranks"][0]["random"].update(values)

    def setting(**values: Any) -> Callable[[Values], object]:
        return lambda v: v["training"]["config"].update(values)

    return {
        "momentum of another shape": moment(lambda t: torch.zeros(1)),
        "momentum of another rank": moment(lambda t: t[None]),
        "momentum of bits": moment(lambda t: t.bool()),
        "momentum of nan": moment(lambda t: torch.full_like(t, math.nan)),
        "momentum of nothing": moment(lambda t: "word"),
        "momentum that shares": _share_momentum,
        "an optimizer of one": lambda v: v["training"]["optimizer"].update(param_groups=[]),
        "parameters twice": lambda v: v["training"]["optimizer"]["param_groups"][0].update(
            params=[0] * 9
        ),
        "no optimizer": put(optimizer=None),
        "generator of no bytes": rank(torch=torch.zeros(0, dtype=torch.uint8)),
        "generator of 10**7 bytes": rank(torch=torch.zeros(10**7, dtype=torch.uint8)),
        "generator of floats": rank(torch=torch.zeros(5056)),
        "words of Python's generator": rank(python=[3, [2**70] * 625, None]),
        "position of numpy's generator": rank(
            numpy={"key": torch.zeros(624, dtype=torch.int64), "pos": -1}
        ),
        "an epoch of 10**300": put(epoch=HUGE),
        "an epoch of -1": put(epoch=-1),
        "a step of -1": put(step=-1),
        "a step of 10**300": put(step=HUGE),
        "a step of nan": put(step=math.nan),
        "no steps an epoch": put(steps_per_epoch=0),
        "images of -5": put(images=-5),
        "an AP of nan": put(best_ap=math.nan),
        "an AP of 10**300": put(best_ap=HUGE),
        "skipped words": put(skipped=["a", "b"]),
        "skipped 2**80": put(skipped=[2**80, 0]),
        "a history of words": put(history="abc"),
        "a history of lists": put(history=[[1, 2]]),
        "a history of numbers for names": put(history=[{1: 2}]),
        "a history of tensors": put(history=[{"loss": torch.zeros(3)}]),
        "updates of 2**70": put(ema_updates=2**70),
        "no ranks": put(ranks=3),
        "no machine": put(machine=7),
        "no settings": put(config=[]),
        "10**9 workers": setting(workers=10**9),
        "a word for a rate": setting(lr="fast"),
        "nan for a rate": setting(lr=math.nan),
        "a list for the data": setting(data=["a"]),
        "a model that is none": setting(model="efficientdet_d99"),
    }  # fmt: skip


def _first(state: Values) -> str:
    return next(name for name, tensor in state.items() if tensor.dim() == 4)


def _share(values: Values) -> None:
    """Two weights of one shape in the same bytes."""
    seen: dict[Any, torch.Tensor] = {}
    for state in (values["model"], values["ema"]):
        seen.clear()
        for name, tensor in state.items():
            state[name] = seen.setdefault((tensor.shape, tensor.dtype), tensor)


def _share_momentum(values: Values) -> None:
    seen: dict[Any, torch.Tensor] = {}
    for entry in values["training"]["optimizer"]["state"].values():
        for name, tensor in entry.items():
            if isinstance(tensor, torch.Tensor):
                entry[name] = seen.setdefault(tensor.shape, tensor)


def safetensors(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Changes of a published file, with a right digest where it has one."""
    length = int.from_bytes(good[:8], "little")
    header, content = json.loads(good[8 : 8 + length]), good[8 + length :]
    name = next(n for n in header if n != "__metadata__")

    def entry(**values: Any) -> bytes:
        changed = copy.deepcopy(header)
        changed[name].update(values)
        return signed(changed, content)

    def metadata(**values: str) -> bytes:
        changed = copy.deepcopy(header)
        changed["__metadata__"].update(values)
        return signed(changed, content)

    ends = header[name]["data_offsets"]
    config = json.loads(header["__metadata__"]["model_config"])
    yield "safetensors: a header of 2**63", struct.pack("<Q", 2**63) + good[8:]
    yield "safetensors: cut", good[:-5]
    yield "safetensors: overlap", entry(data_offsets=[ends[0] + 4, ends[1] + 4])
    yield "safetensors: beyond the end", entry(data_offsets=[2**50, 2**50 + ends[1] - ends[0]])
    yield "safetensors: a negative place", entry(data_offsets=[-8, 0])
    yield "safetensors: a place of 10**300", entry(data_offsets=[0, HUGE])
    yield "safetensors: a shape that overflows", entry(shape=[2**62, 2**62, 0])
    yield "safetensors: a shape of words", entry(shape=["a"])
    yield "safetensors: an unknown type", entry(dtype="F32\x1b[2J")
    yield "safetensors: a hole", signed(header, content + bytes(64))
    yield "safetensors: one name twice", good.replace(b'"format"', b'"licence"', 1)
    yield "safetensors: 4 MB of brackets", _framed(b"[" * 4_000_000)
    yield "safetensors: lists of lists", _framed(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}")
    yield "safetensors: metadata of lists", metadata(metrics='{"a":[' + "[]," * 1_200_000 + "[]]}")
    yield (
        "safetensors: a width of 10**9",
        metadata(model_config=json.dumps(config | {"width": 10**9})),
    )
    yield (
        "safetensors: no numbers",
        metadata(model_config=json.dumps(config | {"mean": [math.nan] * 3})),
    )
    yield "safetensors: digits", metadata(model_config='{"width":' + "9" * 100_000 + "}")
    yield "safetensors: another digest", good[:-1] + bytes([good[-1] ^ 1])


def signed(header: Values, content: bytes) -> bytes:
    """A published file of ours with its digest, whatever is in it."""
    header["__metadata__"]["digest"] = "sha256:" + "0" * 64
    whole = _framed(json.dumps(header, separators=(",", ":")).encode()) + content
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole.replace(b"sha256:" + b"0" * 64, b"sha256:" + digest, 1)


def _framed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def indices() -> Iterator[tuple[str, bytes]]:
    """TensorFlow indices, each with right checksums."""
    one = tf_writer.header(1)
    variable = tf_writer.number(1, 1) + tf_writer.number(5, 4)

    def table(*pairs: tuple[bytes, bytes], **how: Any) -> bytes:
        return tf_writer.table([(b"", one), *pairs], **how)

    many = [(b"%06d" % i, variable) for i in range(60_000)]
    shape = tf_writer.message(2, tf_writer.message(2, tf_writer.number(1, 2**62)) * 15)
    good = table((b"a", variable))
    yield "index: 60,000 names", table(*many)
    yield "index: a long name", table((b"a" * 5000, variable))
    yield "index: an overflowing shape", table((b"a", tf_writer.number(1, 1) + shape))
    yield "index: an entry of 1 MB", table((b"a", tf_writer.message(9, bytes(900_000))))
    yield "index: fields without end", table((b"a", b"".join(
        tf_writer.number(i, 1) for i in range(1, 12_000))))  # fmt: skip
    yield "index: a number without end", table((b"a", b"\xff" * 60_000))
    yield "index: a shard of 2**60", table((b"a", variable + tf_writer.number(3, 2**60)))
    yield "index: 2**40 shards", tf_writer.table([(b"", tf_writer.header(2**40)), (b"a", variable)])
    yield "index: compressed a hundred times", table((b"a", bytes(60_000)), snappy=True)
    yield "index: a block that is cut", good[:-30]
    yield "index: another checksum", good[:3] + bytes([good[3] ^ 1]) + good[4:]
    yield "index: the footer alone", bytes(40) + good[-8:]
    yield "index: a handle of 2**63", b"\xff" * 9 + b"\1" + bytes(30) + good[-8:]


def hdf5() -> dict[str, Callable[[Path], None]]:
    """Keras files that lead elsewhere or are larger than they are."""
    import h5py
    import numpy as np

    def made(change: Callable[[Any], object]) -> Callable[[Path], None]:
        def _write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                change(file)

        return _write

    def cycle(file: Any) -> None:
        for name in ("a", "b"):
            file.create_group(name)
        for name in ("a", "b"):
            file[name]["a"], file[name]["b"] = file["a"], file["b"]

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((9,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (9,))
        file.create_virtual_dataset("a/a:0", layout)

    def chunks(file: Any) -> None:
        file.create_dataset(
            "a/a:0", (2**30,), "f4", chunks=(2**20,), compression="gzip", fillvalue=1
        )

    return {
        "h5: a link to another file": made(
            lambda f: f.update({"a/a:0": h5py.ExternalLink("/etc/passwd", "/")})
        ),
        "h5: a soft link": made(lambda f: f.update({"a": h5py.SoftLink("/a")})),
        "h5: groups in themselves": made(cycle),
        "h5: a virtual dataset": made(virtual),
        "h5: data of another file": made(
            lambda f: f.create_dataset("a/a:0", (8,), "u1", external=[("/etc/passwd", 0, 8)])
        ),
        "h5: chunks of 4 GB": made(chunks),
        "h5: 2**40 numbers": made(lambda f: f.create_dataset("a/a:0", (2**40,), "f4")),
        "h5: texts": made(lambda f: f.create_dataset("a/a:0", (3,), h5py.string_dtype())),
        "h5: references": made(lambda f: f.create_dataset("a/a:0", (3,), h5py.ref_dtype)),
        "h5: records": made(lambda f: f.create_dataset("a/a:0", (3,), [("a", "f4"), ("b", "i4")])),
        "h5: 11,000 groups": made(lambda f: [f.create_group(str(i)) for i in range(11_000)]),
        "h5: deep": made(lambda f: f.create_group("/".join("a" * 100))),
        "h5: one number": made(lambda f: f.create_dataset("a/a:0", data=np.float32(1))),
    }


def strangers() -> dict[str, bytes]:
    """What people get in place of weights."""
    return {
        "nothing": b"",
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "JSON": b'{"message": "Not found"}',
        "gzip": b"\x1f\x8b" + bytes(50),
        "random bytes": hashlib.sha256(b"a").digest() * 100,
    }
