# SPDX-License-Identifier: Apache-2.0
"""The index files that google/automl published for D0 and D1, and what their checksums tell.

A tensor of four bytes is known from its checksum alone, so the published fusion weights are here.
"""

import hashlib
import struct
from pathlib import Path

import pytest
import torch

from effdet.errors import WeightsError
from effdet.weights import translate
from effdet.weights.formats.bundle import Entry, read_bundle
from effdet.weights.formats.tensorflow import open_tensorflow
from effdet.weights.sources.automl import DETECTOR
from tests import golden
from tests.weights.tf_writer import EMA, data_file, write_index

GIT_BLOBS = {
    "efficientdet-d0": "1bb5484608367f80a450e4aa77bfbd2e93ca57da",
    "efficientdet-d1": "a2ed3b956f11ef66ae1f99743967430dec6691b1",
}
"""Of ``model.index`` in the repository's history."""
LISTINGS = {
    "efficientdet-d0": "bdc2174766e4fc9c81b3ec2d8b9b3eb821e4abca5ea99aa3657a6bfce000d9d7",
    "efficientdet-d1": "9444541839504ef00bf56e3e4df06a39885ad026b884a0fa20da310879968cfb",
}
"""SHA-256 of ``name dtype shape offset size crc32c`` a line, as another reader found them."""
EQUAL_TWINS = {"efficientdet-d0": (709, 411), "efficientdet-d1": (912, 531)}
SIZES = {"efficientdet-d0": 31417632, "efficientdet-d1": 53578840}
models = pytest.mark.parametrize("model", GIT_BLOBS)


def index_of(model: str) -> Path:
    return golden.FOLDER / f"{model}.index"


def entries_of(model: str) -> dict[str, Entry]:
    with index_of(model).open("rb") as file:
        return {entry.name: entry for entry in read_bundle(file).entries}


def content(masked: int) -> bytes:
    """The only four bytes with this checksum: the register of the CRC run backwards."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    register = (rotated >> 17 | rotated << 15) & 0xFFFFFFFF ^ 0xFFFFFFFF
    for _ in range(32):
        if register >> 31:
            register = (register ^ 0x82F63B78) << 1 & 0xFFFFFFFF | 1
        else:
            register = register << 1
    return struct.pack("<I", register ^ 0xFFFFFFFF)


@models
def test_the_files_are_the_published_ones(model: str) -> None:
    data = index_of(model).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert blob == GIT_BLOBS[model]


@models
def test_every_entry_is_what_another_reader_found(model: str) -> None:
    text = "\n".join(
        f"{e.name} {str(e.dtype)[6:]} {list(e.shape)} {e.offset} {e.size} {e.crc32c}"
        for e in entries_of(model).values()
    )
    assert hashlib.sha256(text.encode()).hexdigest() == LISTINGS[model]


@models
def test_the_writer_of_these_tests_makes_the_same_bytes(model: str, tmp_path: Path) -> None:
    written = write_index(tmp_path / "model", entries_of(model).values())
    assert written.read_bytes() == index_of(model).read_bytes()


@pytest.fixture(scope="module", params=GIT_BLOBS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published index and a data file of what is known: the rest is a hole."""
    model: str = request.param
    folder = tmp_path_factory.mktemp(model)
    index = folder / "model.index"
    index.write_bytes(index_of(model).read_bytes())
    with data_file(folder / "model", 0, 1).open("wb") as file:
        file.truncate(SIZES[model])
        for entry in entries_of(model).values():
            if entry.size == 4:
                file.seek(entry.offset)
                file.write(content(entry.crc32c))
    return folder


def test_the_model_is_identified(checkpoint: Path) -> None:
    file = open_tensorflow(checkpoint)
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    assert DETECTOR.recognises(shapes)
    (config,) = translate.identify(DETECTOR, shapes)
    assert checkpoint.name.startswith(config.name.replace("_", "-"))
    assert config.num_classes == 90
    assert file.tensors.keys() - file.averages.keys() == {"global_step"}


def test_the_published_fusion_weights_pass_their_checksums(checkpoint: Path) -> None:
    """They start at 1 and are learned: any other four bytes would be such floats by a miracle."""
    file = open_tensorflow(checkpoint)
    found = {name: t.read().item() for name, t in file.averages.items() if "/WSM" in name}
    assert len(found) in (57, 76)
    assert all(-0.02 < value < 2.5 for value in found.values())
    assert sum(found.values()) / len(found) == pytest.approx(1, abs=0.2)
    for name, value in found.items():
        assert file.tensors[name].read().item() == pytest.approx(value, abs=1e-7)


def test_step_0_has_the_published_checksum(checkpoint: Path) -> None:
    """The hole is zeros, so it is also the proof that checksums are masked CRC-32C."""
    step = open_tensorflow(checkpoint).tensors["global_step"].read()
    assert step.dtype == torch.int64
    assert step.item() == 0


def test_whatever_is_not_known_is_refused(checkpoint: Path) -> None:
    file = open_tensorflow(checkpoint)
    for name in ("class_net/class-predict/bias", "efficientnet-b", "box_net/box-0-bn-3/gamma"):
        name = next(n for n in file.averages if n.startswith(name))
        with pytest.raises(WeightsError, match=rf"data-00000-of-00001.*checksum of {name}"):
            file.averages[name].read()


@models
def test_an_average_that_equals_its_tensor_has_its_checksum(model: str) -> None:
    entries = entries_of(model)
    twins = [(e, entries[e.name + EMA]) for e in entries.values() if e.name + EMA in entries]
    assert all(a.shape == b.shape for a, b in twins)
    assert (len(twins), sum(a.crc32c == b.crc32c for a, b in twins)) == EQUAL_TWINS[model]
