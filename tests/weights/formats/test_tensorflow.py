# SPDX-License-Identifier: Apache-2.0
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.weights.formats.bundle import DTYPES, Entry
from effdet.weights.formats.table import MAGIC
from effdet.weights.formats.tensorflow import is_tensorflow, open_tensorflow
from effdet.weights.tensor_file import TensorFile
from tests.weights import tf_writer
from tests.weights.tf_writer import data_file, write_checkpoint, write_index

TENSORS = {
    "b/kernel": torch.arange(6.0).reshape(1, 2, 3),
    "b/bias": torch.tensor([1.5, -2.0]),
    "global_step": torch.tensor(7),
}
AVERAGES = {"b/kernel": torch.arange(6.0).reshape(1, 2, 3) / 8, "b/bias": torch.tensor([0.5, 0.25])}
END = "/.ATTRIBUTES/VARIABLE_VALUE"


def values(path: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint, averages under their names in it."""
    file = open_tensorflow(path)
    named = {**file.tensors, **{f"{n}{tf_writer.EMA}": t for n, t in file.averages.items()}}
    return {name: stored.read() for name, stored in named.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) and value.dtype == expected[name].dtype
        for name, value in found.items()
    )


def expected() -> dict[str, Tensor]:
    return {**TENSORS, **{f"{name}{tf_writer.EMA}": value for name, value in AVERAGES.items()}}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model", TENSORS, AVERAGES)
    return tmp_path / "model"


def refused(path: Path, *words: str) -> None:
    """Opening or reading ``path`` ends with one line that has all ``words``."""
    with pytest.raises(WeightsError) as caught:
        values(path)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# What is read


@pytest.mark.parametrize("num_shards", [1, 2, 5])
@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("block_size", [1, 100, 262144])
def test_what_was_written_is_read(
    tmp_path: Path, num_shards: int, snappy: bool, block_size: int
) -> None:
    options = {"num_shards": num_shards, "snappy": snappy, "block_size": block_size}
    write_checkpoint(tmp_path / "model", TENSORS, AVERAGES, **options)
    assert same(values(tmp_path), expected())


def test_shapes_and_types_are_known_before_anything_is_read(prefix: Path) -> None:
    data_file(prefix, 0, 1).write_bytes(bytes(80))
    file = open_tensorflow(prefix)
    assert file.form == "TensorFlow checkpoint"
    assert file.path == prefix.with_name("model.index")
    assert {n: (t.shape, t.dtype) for n, t in file.tensors.items()} == {
        "b/kernel": ((1, 2, 3), torch.float32),
        "b/bias": ((2,), torch.float32),
        "global_step": ((), torch.int64),
    }
    assert file.averages.keys() == AVERAGES.keys()


def test_averages_are_preferred_unless_raw_weights_are_wanted(prefix: Path) -> None:
    file = open_tensorflow(prefix)
    assert torch.equal(file.best()["b/bias"].read(), AVERAGES["b/bias"])
    assert torch.equal(file.best(use_ema=False)["b/bias"].read(), TENSORS["b/bias"])
    assert file.best()["global_step"].read() == 7


def test_an_average_alone_stands_for_its_tensor(tmp_path: Path) -> None:
    file = open_tensorflow(write_checkpoint(tmp_path / "model", {}, AVERAGES))
    assert file.tensors.keys() == file.averages.keys() == AVERAGES.keys()


def test_averages_of_an_optimizer_are_found_too(tmp_path: Path) -> None:
    slots = f"class_net/classes/bias/.OPTIMIZER_SLOT/optimizer/{{}}{END}"
    tensors = {
        f"class_net/classes/bias{END}": torch.zeros(2),
        slots.format("average"): torch.ones(2),
        slots.format("momentum"): torch.full((2,), 5.0),
    }
    file = open_tensorflow(write_checkpoint(tmp_path / "ckpt-1", tensors))
    assert file.averages.keys() == {f"class_net/classes/bias{END}"}
    assert torch.equal(file.best()[f"class_net/classes/bias{END}"].read(), torch.ones(2))
    assert slots.format("momentum") in file.tensors


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_of_numbers_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    write_checkpoint(tmp_path / "model", {"a": tensor, "none": tensor[:0], "one": tensor[0, 1]})
    found = values(tmp_path)
    assert all(value.dtype == dtype for value in found.values())
    assert found["none"].shape == (0, 3)
    assert found["one"].shape == ()
    assert torch.equal(found["a"].to(torch.complex128), tensor.to(torch.complex128))


def test_strings_are_left_out(prefix: Path) -> None:
    graph = Entry("_CHECKPOINTABLE_OBJECT_GRAPH", None, (), 0, 0, 40, 0)
    weight = Entry("a", torch.float32, (0,), 0, 40, 0, 0xA282EAD8)
    write_index(prefix, [graph, weight])
    assert values(prefix).keys() == {"a"}


def test_a_tensor_is_read_into_memory_of_its_own(prefix: Path) -> None:
    stored = open_tensorflow(prefix).tensors["b/bias"]
    stored.read().zero_()
    assert torch.equal(stored.read(), TENSORS["b/bias"])


@pytest.mark.parametrize("use_ema", [False, True])
def test_the_disk_is_asked_once_for_all_that_is_likely_to_follow(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, use_ema: bool
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, size, __: asked.append((at, size)))
    file = open_tensorflow(prefix)
    assert asked == []
    for name in AVERAGES:
        file.best(use_ema)[name].read()
    assert asked == ([(8, 8), (40, 24)] if use_ema else [(0, 8), (16, 24), (64, 8)])


def test_systems_that_cannot_be_asked_read_all_the_same(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    assert same(values(prefix), expected())


# How it is named


@pytest.mark.parametrize(
    "name", ["model", "model.index", "model.meta", "model.data-00000-of-00001", ""]
)
def test_any_part_the_prefix_or_the_folder_names_a_checkpoint(prefix: Path, name: str) -> None:
    prefix.with_name("model.meta").touch()
    path = prefix.parent / name
    assert is_tensorflow(path)
    assert same(values(path), expected())


def test_dots_in_a_prefix_belong_to_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.ckpt-1500", TENSORS)
    assert same(values(tmp_path / "model.ckpt-1500"), TENSORS)


@pytest.mark.parametrize("named", ["second", "/somewhere/else/second", "runs\\\\second"])
def test_a_folder_says_which_of_several_is_the_latest(tmp_path: Path, named: str) -> None:
    write_checkpoint(tmp_path / "first", {"a": torch.zeros(1)})
    write_checkpoint(tmp_path / "second", TENSORS)
    refused(tmp_path, "first.index, second.index", "name one")
    lines = f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "first"\n'
    (tmp_path / "checkpoint").write_text(lines)
    assert same(values(tmp_path), TENSORS)


def test_a_folder_whose_latest_is_gone_says_so(prefix: Path) -> None:
    (prefix.parent / "checkpoint").write_text('model_checkpoint_path: "model-9"')
    refused(prefix.parent, "checkpoint: names model-9.index, which is not in the folder")


def test_an_index_is_known_by_its_end_whatever_its_name(prefix: Path) -> None:
    other = prefix.with_name("weights.pth")
    prefix.with_name("model.index").rename(other)
    assert is_tensorflow(other)
    refused(other, "weights.pth.data-00000-of-00001: missing; weights.pth needs it for b/bias")
    shutil.copy(data_file(prefix, 0, 1), data_file(other, 0, 1))
    assert same(values(other), expected())


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"PK\3\4" + bytes(100))
    for name in ("weights.pth", "nothing", ""):
        assert not is_tensorflow(tmp_path / name)
    refused(tmp_path / "nothing", "nothing: no TensorFlow checkpoint", "no nothing.index beside it")
    refused(tmp_path, "expected one TensorFlow index, found none")


# Damage


def test_a_missing_index_is_named(prefix: Path) -> None:
    prefix.with_name("model.index").unlink()
    path = data_file(prefix, 0, 1)
    assert is_tensorflow(path)
    refused(path, path.name, "there is no model.index beside it")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", TENSORS, AVERAGES, num_shards=3)
    path = data_file(tmp_path / "model", 1, 3)
    path.unlink()
    refused(tmp_path, f"{path}: missing; model.index needs it for b/bias{tf_writer.EMA}")


def test_a_shard_that_is_cut_off_is_named_with_a_tensor_before_anything_is_read(
    prefix: Path,
) -> None:
    path = data_file(prefix, 0, 1)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=f"{path.name}: cut off at {size} bytes: "):
            open_tensorflow(prefix)


def test_a_shard_that_is_cut_off_after_opening_is_named(prefix: Path) -> None:
    stored = open_tensorflow(prefix).tensors["global_step"]
    path = data_file(prefix, 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="00001: cut off before the end of global_step"):
        stored.read()
    path.unlink()
    with pytest.raises(WeightsError, match="00001: global_step cannot be read"):
        stored.read()


def test_every_changed_byte_of_a_shard_is_found_and_its_tensor_named(prefix: Path) -> None:
    path = data_file(prefix, 0, 1)
    data = path.read_bytes()
    places = [("b/bias", 0, 16), ("b/kernel", 16, 64), ("global_step", 64, 72)]
    assert len(data) == places[-1][2]
    for name, start, end in places:
        for at in range(start, end):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            refused(prefix, f"{path}: damaged: the checksum of {name}")


def outcome(prefix: Path, index: bytes) -> dict[str, Tensor] | None:
    """What is read with another index; None where it is refused in one line that names it."""
    prefix.with_name("model.index").write_bytes(index)
    try:
        return values(prefix)
    except WeightsError as error:
        text = str(error)
    assert "model." in text
    assert "\n" not in text
    return None


@pytest.mark.parametrize("snappy", [False, True])
def test_an_index_that_is_cut_off_anywhere_is_refused(tmp_path: Path, snappy: bool) -> None:
    index = write_checkpoint(tmp_path / "model", TENSORS, AVERAGES, snappy=snappy).read_bytes()
    for size in range(len(index)):
        assert outcome(tmp_path / "model", index[:size]) is None


@pytest.mark.parametrize("snappy", [False, True])
def test_every_changed_byte_of_an_index_is_refused_or_of_no_effect(
    tmp_path: Path, snappy: bool
) -> None:
    """Of no effect are the footer's padding and what says where the empty block lies."""
    options = {"snappy": snappy, "block_size": 150}
    index = write_checkpoint(tmp_path / "model", TENSORS, AVERAGES, **options).read_bytes()
    harmless = set()
    for at in range(len(index)):
        for change in (0x01, 0x80, 0xFF):
            changed = index[:at] + bytes([index[at] ^ change]) + index[at + 1 :]
            found = outcome(tmp_path / "model", changed)
            if found is not None:
                assert same(found, expected())
                harmless.add(at)
    empty_block = index.index(tf_writer.seal(tf_writer.block([])))
    assert all(at >= len(index) - 48 or empty_block <= at < empty_block + 13 for at in harmless)


def test_nothing_but_a_clear_error_comes_of_wrong_blocks_with_right_checksums(
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "model"
    index = write_checkpoint(prefix, TENSORS, AVERAGES).read_bytes()
    size = index.index(tf_writer.seal(tf_writer.block([]))) - 5
    refusals = 0
    for at in range(size):
        for change in (0x01, 0x80, 0xFF):
            block = index[:at] + bytes([index[at] ^ change]) + index[at + 1 : size]
            sealed = tf_writer.seal(block)
            refusals += outcome(prefix, sealed + index[len(sealed) :]) is None
    assert refusals > size  # a changed letter of a name does no harm


# Indices that say what cannot be

WEIGHT = Entry("w", torch.float32, (2, 3), 0, 0, 24, 0)


def write_entry(prefix: Path, value: bytes, header: bytes | None = None) -> None:
    pairs = [(b"", tf_writer.header(1) if header is None else header), (b"w", value)]
    prefix.with_name("model.index").write_bytes(tf_writer.table(pairs))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 20}, "w has 20 bytes, expected 24 for [2, 3] float32"),
        ({"shape": (2, 2)}, "w has 24 bytes, expected 16 for [2, 2] float32"),
        ({"shape": (2**40, 2**40)}, "w has a shape that no tensor can have"),
        ({"shape": (0, 2**62, 2**62), "size": 0}, "w has a shape that no tensor can have"),
        ({"shape": (1,) * 17, "size": 4}, "w has a shape that no tensor can have"),
        ({"shape": (2**40,), "size": 2**42}, "cut off at 72 bytes: w has 4398046511104 at 0"),
        ({"offset": 2**60}, "cut off at 72 bytes: w has 24 at"),
        ({"offset": 49}, "cut off at 72 bytes: w has 24 at 49"),
        ({"shard": 1}, "w is in data file 1, but there are 1"),
    ],
)
def test_sizes_and_places_that_cannot_be_are_refused(
    prefix: Path, changes: dict[str, object], words: str
) -> None:
    write_entry(prefix, tf_writer.entry(replace(WEIGHT, **changes)))  # type: ignore[arg-type]
    with pytest.raises(WeightsError) as caught:
        open_tensorflow(prefix)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "header", "words"),
    [
        (tf_writer.entry(WEIGHT, kind=11), None, "w has the unknown type 11"),
        (tf_writer.entry(WEIGHT, kind=0), None, "w has the unknown type 0"),
        (tf_writer.entry(WEIGHT, more=tf_writer.message(7, b"")), None, "w is stored in slices"),
        (b"\x08", None, "w: damaged entry (a number that is cut off)"),
        (b"\x12\x7f", None, "w: damaged entry (a field that is cut off)"),
        (b"\x10\x01", None, "w: damaged entry (field 2 is not a message)"),
        (b"\x0a\x00", None, "w: damaged entry (field 1 is not a number)"),
        (b"", b"\x0a\x02\x08\x01", "not the index of a TensorFlow V2 checkpoint (field 1"),
        (b"", tf_writer.header(1, endianness=1), "big-endian"),
        (b"", tf_writer.header(1, min_consumer=2), "needs a reader of version 2, this is 1"),
        (tf_writer.entry(WEIGHT), tf_writer.header(0), "w is in data file 0, but there are 0"),
    ],
)
def test_entries_that_are_not_read_are_refused(
    prefix: Path, value: bytes, header: bytes | None, words: str
) -> None:
    write_entry(prefix, value, header)
    refused(prefix, "model.index: ", words)


def test_a_table_without_a_header_is_no_index(prefix: Path) -> None:
    for pairs in ([], [(b"a", b"")]):
        prefix.with_name("model.index").write_bytes(tf_writer.table(pairs))
        refused(prefix, "model.index: not a TensorFlow index: its table has no header")


@pytest.mark.parametrize("name", [b"\xff", b"\0slice", b"a\nb"])
def test_a_name_that_is_not_text_is_refused(prefix: Path, name: bytes) -> None:
    pairs = [(b"", tf_writer.header(1)), (name, tf_writer.entry(WEIGHT))]
    prefix.with_name("model.index").write_bytes(tf_writer.table(pairs))
    refused(prefix, f"model.index: {name!r} is not the name of a variable")


@pytest.mark.parametrize("content", [b"", b"text", MAGIC, bytes(40) + MAGIC, b"\xff" * 40 + MAGIC])
def test_what_only_ends_like_an_index_is_refused(prefix: Path, content: bytes) -> None:
    prefix.with_name("model.index").write_bytes(content)
    refused(prefix, "model.index: ")


def test_a_file_that_may_not_be_read_is_named(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    refused(prefix, "model.index: cannot read the weights file: Permission denied")


def test_reading_takes_no_more_than_the_tensor(prefix: Path) -> None:
    """Opening a large checkpoint is free: the file is a hole of 2**40 bytes."""
    with data_file(prefix, 0, 1).open("r+b") as file:
        file.truncate(2**40)
    small = replace(WEIGHT, name="small", offset=2**40 - 24)
    write_index(prefix, [replace(WEIGHT, name="large", shape=(2**38,), size=2**40), small])
    file_of: TensorFile = open_tensorflow(prefix)
    assert file_of.tensors["large"].shape == (2**38,)
    with pytest.raises(WeightsError, match="checksum of small"):
        file_of.tensors["small"].read()
