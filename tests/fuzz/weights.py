# SPDX-License-Identifier: Apache-2.0
"""Mutated weights files of every form: refused in words, or read as what they are.

    python -m tests.fuzz.weights --cases 20000 --seed 0

Case ``n`` of a seed depends on nothing else, so that ``--first n --cases 1`` repeats it.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import itertools
import json
import os
import pickletools
import random
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from effdet.config import model_config
from effdet.errors import WeightsError
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, load_detector, save_checkpoint
from effdet.weights.formats import open_file
from effdet.weights.published import save_published
from tests.fuzz.forked import DIED, HUNG, in_child, memory
from tests.fuzz.weight_doors import MB, MEMORY, SECONDS, all_refusals
from tests.tiny import tiny_model
from tests.weights import tf_writer
from tests.weights.formats.hostile_files import corpus
from tests.weights.formats.pickle_code import zip_of

BATCH = 250
HANG_SECONDS = 120.0
FAULTS_KEPT = 20
SPECIAL = [0, 1, 0x7F, 0x80, 0xFF]
SIGNED = {"ours": ".pt", "published": ".safetensors"}
"""Forms with a digest: any change must be found."""

FORMS = ["ours", "published", "zip", "old", "safetensors", "index", "data", "h5"]
LEAST = {"refused": 0.03, "read": 0.002}
"""The least share of all cases that are refused and that are read, of every form."""

BOMBS = [
    "8 GB of zeros", "2**40 leaves", "50,000 deep", "a dict in itself", "keys of one hash",
    "a dict copied again and again", "2,100,000 operations", "a pickle of 20 MB",
    "a tensor of 2**40 zeros", "a storage of 2**40", "a number of 2 GB", "a text of 4 GB",
    "bytes of 2**40", "an entry of 4 GB", "a deflated storage",
]  # fmt: skip
"""Of the corpus of pickles, those that are to cost memory or time."""


def fuzz(cases: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Figures of :func:`mutations`, of all hostile files at all doors and of torch's own reader."""
    with tempfile.TemporaryDirectory() as name, tiny_model(), _inside(Path(name) / "work"):
        (Path(name) / "peer").mkdir()
        hostile = all_refusals(Path(name))
        return {**mutations(cases, seed, first), **hostile, "torch_load": peer(Path(name) / "peer")}


def mutations(cases: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Mutate small good files of every form and open them; counts by outcome and the worst costs.

    Returns:
        ``counts``, whose sum is ``cases``; ``faults``, the first of the cases that did what none
        may do; ``memory_mb`` of a batch of cases and ``longest_s`` of a case.
    """
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    most, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as name, tiny_model():
        folder, log = Path(name), Path(name) / "log"
        goods = good_files(folder)
        contents = {form: path.read_bytes() for form, path in goods.items()}
        at, end = first, first + cases
        while at < end:
            log.write_text("")
            batch = range(at, min(at + BATCH, end))
            outcome = in_child(lambda b=batch: _batch(goods, contents, seed, b, log), HANG_SECONDS)  # type: ignore[misc]
            for form, how, said, seconds in map(json.loads, log.read_text().splitlines()):
                counts[f"{form}: {said.partition(':')[0]}"] += 1
                if said.startswith("FAULT"):
                    faults.append(f"case {at}: {form}, {how}: {said}")
                longest = max(longest, seconds)
                at += 1
            most = max(most, outcome.memory)
            if outcome.text:
                faults.append(f"case {at}: {outcome.text}")
                counts[f"{_form(goods, seed, at)[0]}: FAULT"] += 1
                at += 1
    return {
        "cases": cases, "seed": seed, "counts": dict(sorted(counts.items())),
        "faults": faults[:FAULTS_KEPT], "memory_mb": round(most / MB),
        "longest_s": round(longest, 3),
    }  # fmt: skip


def shortfalls(figures: Mapping[str, Any]) -> list[str]:
    """Why the figures of :func:`mutations` do not show that files are looked at."""
    counts, cases = figures["counts"], figures["cases"]
    found = [] if sum(counts.values()) == cases else [f"{sum(counts.values())} of {cases} cases"]
    for form, (outcome, share) in itertools.product(FORMS, LEAST.items()):
        count = counts.get(f"{form}: {outcome}", 0)
        if count < share * cases:
            found.append(f"{form}: {count} {outcome}, at least {share * cases:g} expected")
    return found


def peer(folder: Path) -> dict[str, Any]:
    """``torch.load(weights_only=True)`` on the files that are to cost much: what comes of each.

    It may take 10 s of processor time and 4 GB of addresses.
    """
    pickles = corpus()
    path = folder / "a.pt"

    def load() -> str:
        most = memory("VmSize") + 4 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        try:
            torch.load(path, weights_only=True)
        except Exception as error:
            return type(error).__name__
        return "read"

    found, beyond = {}, 0
    for kind in BOMBS:
        path.write_bytes(pickles[kind])
        outcome = in_child(load, 60.0)
        ended = not outcome.text.startswith((DIED, HUNG))
        cost = f", {outcome.seconds:.1f} s, {outcome.memory / MB:.0f} MB" if ended else ""
        beyond += not ended or outcome.seconds > SECONDS or outcome.memory > MEMORY
        found[kind] = f"{outcome.text}{cost}"
    return {"beyond_2_s_or_256_mb": beyond, "of": len(BOMBS), "outcomes": found}


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Programs that a file might start write here."""
    before = Path.cwd()
    folder.mkdir()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def good_files(folder: Path) -> dict[str, Path]:
    """A small file of every form; those of a TensorFlow checkpoint lie beside each other."""
    import h5py

    config = model_config("tiny", num_classes=2)
    checkpoint = Checkpoint(
        model_config=config, class_map=ClassMap(("cat", "dog"), (1, 2)),
        model=build_model(config).state_dict(), ema=None, metrics={"AP": 0.5}, training={},
    )  # fmt: skip
    files = {"ours": folder / "ours.pt", "published": folder / "published.safetensors"}
    save_checkpoint(checkpoint, files["ours"])
    save_published(checkpoint, files["published"])
    state = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "b": torch.ones(5).half()}
    files["zip"], files["old"] = folder / "zip.pth", folder / "old.pth"
    torch.save({"state_dict": state, "epoch": 3}, files["zip"])
    torch.save(state, files["old"], _use_new_zipfile_serialization=False)
    files["safetensors"] = folder / "a.safetensors"
    save_file(state, files["safetensors"], {"format": "pt"})
    files["index"] = tf_writer.write_checkpoint(folder / "tf", state)
    files["data"] = tf_writer.data_file(folder / "tf", 0, 1)
    files["h5"] = folder / "a.h5"
    with h5py.File(files["h5"], "w") as file:
        for name, tensor in state.items():
            file[f"layer/{name}:0"] = tensor.numpy()
    return files


def _form(goods: Mapping[str, Path], seed: int, case: int) -> tuple[str, random.Random]:
    generator = random.Random(f"{seed}/{case}")
    return generator.choice(list(goods)), generator


def _batch(
    goods: Mapping[str, Path], contents: Mapping[str, bytes], seed: int, cases: range, log: Path
) -> str:
    """Write a line for every case that ends."""
    torch.set_num_threads(1)
    for form, path in goods.items():
        path.write_bytes(contents[form])  # the case before this batch may have died
    with log.open("w", buffering=1) as lines:
        for case in cases:
            form, generator = _form(goods, seed, case)
            content, how = mutated(contents[form], form, generator)
            start = time.process_time()
            outcome = "unchanged"
            if content != contents[form]:
                goods[form].write_bytes(content)
                outcome = opened(goods, form, how)
            seconds = time.process_time() - start
            lines.write(json.dumps([form, how, outcome, seconds]) + "\n")
            goods[form].write_bytes(contents[form])
    return ""


def opened(goods: Mapping[str, Path], form: str, how: str) -> str:
    """What came of opening a mutated file and reading all that is in it."""
    path = goods["index" if form == "data" else form]
    try:
        if form in SIGNED:
            load_detector(path)
            return "read" if how == "signed" else "FAULT: a change was not found"
        size = 0
        for tensor in open_file(path).tensors.values():
            value = tensor.read()
            if tuple(value.shape) != tensor.shape or value.dtype != tensor.dtype:
                return f"FAULT: {value.dtype} {value.shape}, said {tensor.dtype} {tensor.shape}"
            size += value.nbytes
        return "read" if size < 100 * 2**20 else f"FAULT: {size} bytes"
    except WeightsError as error:
        text = str(error)
        named = str(path.with_suffix("")) in text
        fine = named and "\n" not in text and len(text) < 1000
        return "refused" if fine else f"FAULT: {text[:300]!r}"
    except Exception as error:
        return f"FAULT: {error!r:.300}"


def mutated(content: bytes, form: str, generator: random.Random) -> tuple[bytes, str]:
    """Another content, and how it was made; ``signed`` ones have a right digest."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, spliced, special]
    way = generator.choice(ways)
    if form in ("ours", "zip") and generator.random() < 0.6:
        content = operations(content, generator)
        return (signed_zip(content), "signed") if form == "ours" else (content, "operations")
    if form == "published" and generator.random() < 0.5:
        return signed_header(content, generator), "signed"
    return way(content, generator), way.__name__


def flipped(content: bytes, generator: random.Random) -> bytes:
    """One to four bytes are others, mostly near the beginning or the end, where the words are."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(changed))
        if generator.random() < 0.6:
            at = generator.choice((at % 600, len(changed) - 1 - at % 600)) % len(changed)
        changed[at] ^= generator.randint(1, 255)
    return bytes(changed)


def special(content: bytes, generator: random.Random) -> bytes:
    """A few bytes in a row are all the same: lengths and places of extreme size."""
    at, count = generator.randrange(len(content)), generator.choice((1, 2, 4, 8))
    return content[:at] + bytes([generator.choice(SPECIAL)] * count) + content[at + count :]


def cut(content: bytes, generator: random.Random) -> bytes:
    """Shorter, or longer by some bytes."""
    if generator.random() < 0.2:
        return content + generator.randbytes(generator.randint(1, 100))
    return content[: generator.randrange(len(content))]


def spliced(content: bytes, generator: random.Random) -> bytes:
    """A piece stands in another place too, in place of what was there or besides."""
    start, at = generator.randrange(len(content)), generator.randrange(len(content))
    piece = content[start : start + generator.randint(1, 200)]
    rest = at + (len(piece) if generator.random() < 0.5 else 0)
    return content[:at] + piece + content[rest:]


def operations(content: bytes, generator: random.Random) -> bytes:
    """The zip file with another pickle: operations left out, doubled, swapped or others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    program = entries["data.pkl"]
    starts = [at for *_, at in pickletools.genops(program)] + [len(program)]
    pieces = [program[a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(generator.randint(1, 3)):
        at, other = generator.randrange(1, len(pieces)), generator.randrange(1, len(pieces))
        match generator.randrange(5):
            case 0:
                pieces[at] = b""
            case 1:
                pieces[at] *= generator.choice((2, 2, 1000))
            case 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                pieces[at] = bytes([generator.randrange(256)]) + pieces[at][1:]
            case _:
                pieces[at] = flipped(pieces[at], generator) if pieces[at] else b""
    entries["data.pkl"] = b"".join(pieces)
    return zip_of(entries)


def signed_zip(content: bytes) -> bytes:
    """With a right digest in its end."""
    content = content[:-2] + struct.pack("<H", 78)
    return content + b"effdet sha256:" + hashlib.sha256(content).hexdigest().encode()


def signed_header(content: bytes, generator: random.Random) -> bytes:
    """With a changed header, or other numbers, and its right digest."""
    length = int.from_bytes(content[:8], "little")
    way = generator.choice([flipped, special, spliced])
    header, rest = content[8 : 8 + length], content[8 + length :]
    if generator.random() < 0.2:
        rest = flipped(rest, generator)
    else:
        header = way(header, generator)
    at = header.find(b'"digest":"sha256:')
    if at < 0:
        return len(header).to_bytes(8, "little") + header + rest
    at += 17
    header = header[:at] + b"0" * 64 + header[at + 64 :]
    whole = len(header).to_bytes(8, "little") + header + rest
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole[: 8 + at] + digest + whole[8 + at + 64 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(mutations(args.cases, args.seed, args.first), indent=1))


if __name__ == "__main__":
    main()
