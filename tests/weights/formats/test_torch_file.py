# SPDX-License-Identifier: Apache-2.0
"""What PyTorch saves is read as PyTorch reads it; what is damaged is told."""

import argparse
import collections
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdet.errors import WeightsError
from effdet.weights.formats import pickled, torch_file
from effdet.weights.formats.pickled_values import Placed
from effdet.weights.formats.torch_file import open_torch, read_contents, read_tensors
from tests.weights.formats.pickle_code import (
    call,
    dict_of,
    list_of,
    name,
    number,
    old_file,
    tensor,
    text,
    zip_file,
)

Save = Callable[[Any, Path], None]


def save_old(value: Any, path: Path) -> None:
    """As before PyTorch 1.6."""
    torch.save(value, path, _use_new_zipfile_serialization=False)


both_forms = pytest.mark.parametrize("save", [torch.save, save_old], ids=["zip", "old"])


def same(ours: Any, theirs: Any, path: Path) -> bool:
    """Whether what was read through is what PyTorch made of the file."""
    if isinstance(ours, Placed):
        read = torch_file._read(ours, path, "x")
        return (
            read.dtype == theirs.dtype
            and read.shape == theirs.shape
            and bits(read) == bits(theirs.detach())
        )
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(
            same(v, theirs[k], path) for k, v in ours.items()
        )
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(same(a, b, path) for a, b in zip(ours, theirs))
    if isinstance(theirs, torch.device):
        theirs = str(theirs)
    return bool(ours == theirs) or ours != ours


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


def everything() -> dict[str, Any]:
    """Every kind of value that may be in a file."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    values: dict[str, Any] = {
        str(dtype): torch.arange(6).to(dtype).reshape(2, 3)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
        )
    }  # fmt: skip
    return values | {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "transposed": base.T,
        "a part": base[1:3, 2:4],
        "its rest": base[3],
        "steps": base[:, ::2],
        "channels last": torch.randn(2, 3, 4, 5, generator=generator).to(
            memory_format=torch.channels_last
        ),
        "infinite": torch.tensor([float("inf"), float("nan"), -0.0]),
        "parameter": nn.Parameter(torch.ones(2)),
        "module": nn.BatchNorm2d(3).state_dict(),
        "optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict(),
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda:1"),
        "dtype": torch.float16,
        "counter": collections.Counter({3: 2, 7: 1}),
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31, -(2**31) - 1, 2**100, -(2**70), 0.1],
        "others": (None, True, False, "\u00fc\udc80", b"\x00\xff", float("-inf")),
        "nested": {"a": [{"b": ({}, [], ())}], 3: "c", (1, "d"): "e", None: 1, True: 2},
    }


@both_forms
def test_every_kind_of_value_is_read_as_pytorch_reads_it(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save(everything(), path)
    loaded = torch.load(path, weights_only=True)
    assert same(read_contents(path).value, loaded, path)
    again = read_tensors(path)
    assert again.keys() == loaded.keys()
    assert all(same(a, b, path) for a, b in zip(again["others"], loaded["others"]))
    assert bits(again["transposed"]) == bits(loaded["transposed"])


def test_new_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    values = {
        str(dtype): torch.arange(4).to(dtype)
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32)
    }
    torch.save(values, path)
    assert same(read_contents(path).value, values, path)


@both_forms
def test_tensors_are_read_one_by_one_in_their_own_memory(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weight = torch.arange(6.0).reshape(2, 3)
    save({"a.weight": weight, "b.weight": weight.T[1:], "c.steps": torch.tensor(3)}, path)
    file = open_torch(path)
    assert {n: (t.shape, t.dtype) for n, t in file.tensors.items()} == {
        "a.weight": ((2, 3), torch.float32),
        "b.weight": ((2, 2), torch.float32),
        "c.steps": ((), torch.int64),
    }
    first = file.tensors["a.weight"].read()
    first.zero_()
    assert torch.equal(file.tensors["a.weight"].read(), weight)
    assert torch.equal(file.tensors["b.weight"].read(), weight.T[1:])
    assert file.tensors["b.weight"].read().is_contiguous()


def test_the_forms_have_names(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "new.pt")
    save_old({"a": torch.ones(1)}, tmp_path / "old.pt")
    assert open_torch(tmp_path / "new.pt").form == "PyTorch"
    assert open_torch(tmp_path / "old.pt").form == "PyTorch before 1.6"


def test_the_published_lite0_is_read(data_folder: Path) -> None:
    path = data_folder / "weights" / "efficientnet-lite0-57934424.pth"
    file = open_torch(path)
    loaded = torch.load(path, weights_only=True)
    assert file.tensors.keys() == loaded.keys()
    assert all(torch.equal(file.tensors[n].read(), t) for n, t in loaded.items())


@pytest.mark.parametrize("how", ["path", "text"])
def test_a_name_of_safetensors_changes_nothing(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(1)}, path)
    assert read_tensors(path if how == "path" else str(path))["a"] == 1


def test_a_file_name_in_any_language_is_read(tmp_path: Path) -> None:
    path = tmp_path / "\u6a21\u578b \u00fc.pt"
    torch.save({"a": torch.ones(1)}, path)
    assert read_tensors(path)["a"] == 1
    assert open_torch(path).tensors["a"].read() == 1


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    """An OrderedDict was a call with a list of pairs, and a text was bytes."""
    path = tmp_path / "a.pt"
    pair = list_of(b"U\x01a", tensor((1,)))
    path.write_bytes(
        zip_file(call(name("collections", "OrderedDict"), list_of(pair)), {"0": bytes(4)})
    )
    loaded = read_tensors(path)
    assert type(loaded) is OrderedDict
    assert same(read_contents(path).value, loaded, path)


def test_environment_variables_do_not_open_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"a": argparse.Namespace()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"argparse\.Namespace"):
        read_tensors(tmp_path / "a.pt")


def test_what_others_allow_pytorch_to_load_stays_refused(tmp_path: Path) -> None:
    torch.save({"a": argparse.Namespace(b=1)}, tmp_path / "a.pt")
    with (
        torch.serialization.safe_globals([argparse.Namespace]),
        pytest.raises(WeightsError, match=r"holds argparse\.Namespace"),
    ):
        read_tensors(tmp_path / "a.pt")


# --- stand-ins ---


def namespace_file(path: Path, save: Save = torch.save) -> None:
    """As training programs save their options and best figures."""
    options = argparse.Namespace(model="tf_efficientdet_d0", lr=0.1, sizes=[1, (2,)], inner=None)
    options.inner = argparse.Namespace(a=np.float32(0.5))
    save(
        {
            "state_dict": {"a.weight": torch.ones(2)},
            "args": options,
            "metric": np.float64(0.25),
            "epoch": np.int64(3),
            "best": np.bool_(True),
            "half": np.float16(0.5),
            "big": np.dtype(">f4").type(2.0),
            "dtype": np.dtype("float32"),
        },
        path,
    )


@both_forms
def test_objects_of_training_programs_are_read_as_lifeless_values(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth.tar"
    namespace_file(path, save)
    allowed = set(torch.serialization.get_safe_globals())
    monkeypatch.setattr(argparse, "Namespace", None)  # nothing that could be made
    file = open_torch(path, inert=True)
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert [*file.tensors] == ["a.weight"]
    assert file.values == {
        "args": {
            "model": "tf_efficientdet_d0",
            "lr": 0.1,
            "sizes": [1, [2]],
            "inner": {"a": 0.5},
        },
        "metric": 0.25,
        "epoch": 3,
        "best": True,
        "half": 0.5,
        "big": 2.0,
        "dtype": "f4",
    }
    plain = (dict, str, int, float, bool)
    assert {type(value) for value in file.values.values()} <= {*plain}
    assert "argparse.Namespace" in file.inert
    assert any(kind.endswith("multiarray.scalar") for kind in file.inert)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (argparse.Namespace(a=1), "argparse.Namespace"),
        (np.float64(1.0), "multiarray.scalar"),
        (np.dtype("f4"), "numpy.dtype"),
    ],
)
def test_without_being_asked_for_they_are_refused_with_the_command_that_reads_them(
    value: object, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1), "b": value}, path)
    for read in (read_tensors, open_torch):
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert kind in str(caught.value)
        assert str(caught.value).endswith("`effdet convert` reads such files")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize(
    ("code", "order", "content", "expected"),
    [
        ("f8", "<", np.float64(0.1).tobytes(), 0.1),
        ("f4", ">", np.array(0.5, ">f4").tobytes(), 0.5),
        ("i8", "<", np.int64(-3).tobytes(), -3),
        ("u2", ">", b"\x01\x02", 258),
        ("b1", "|", b"\x01", True),
    ],
)
def test_numbers_of_numpy_become_those_of_python(
    module: str, code: str, order: str, content: bytes, expected: float, tmp_path: Path
) -> None:
    dtype = call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")
    rest = [number(3), text(order), b"N", b"N", b"N", number(-1), number(-1), number(0)]
    dtype += b"(" + b"".join(rest) + b"tb"
    raw = call(name("_codecs", "encode"), text(content.decode("latin1")), text("latin1"))
    path = tmp_path / "a.pt"
    path.write_bytes(zip_file(dict_of({"a": call(name(module, "scalar"), dtype, raw)})))
    contents = read_contents(path, inert=True)
    assert contents.value == {"a": expected}
    assert type(contents.value["a"]) is type(expected)
    assert contents.inert == (f"{module}.scalar", "numpy.dtype")


@pytest.mark.parametrize(
    "value", [np.ones(2), np.str_("a"), np.datetime64(1, "s"), np.dtype("O"), np.complex64(1j)]
)
def test_other_values_of_numpy_are_refused_even_then(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": value}, path)
    with pytest.raises(WeightsError, match=r"numpy|NumPy"):
        open_torch(path, inert=True)


# --- damage ---


@both_forms
def test_a_file_that_is_cut_anywhere_is_refused(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save({"a": torch.arange(50.0)}, path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        for read in (read_tensors, open_torch):
            with pytest.raises(WeightsError):
                read(path)


@both_forms
@pytest.mark.parametrize("count", [600, pytest.param(30_000, marks=pytest.mark.slow)])
def test_whatever_is_changed_is_read_as_pytorch_reads_it_or_refused(
    save: Save, count: int, tmp_path: Path
) -> None:
    """Mutations: nothing but a ``WeightsError`` comes out, and both readers see the same."""
    source, path = tmp_path / "a.pt", tmp_path / "b.pt"
    layer = nn.BatchNorm2d(2).state_dict()
    save({"state_dict": layer, "epoch": 3, "args": {"lr": 0.1}, "sizes": (1, [2])}, source)
    content = source.read_bytes()
    generator = random.Random(0)
    read, refused = 0, 0
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 2, 4])):
            changed[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            loaded = read_tensors(path)
            assert same(read_contents(path).value, loaded, path)
            read += 1
        except WeightsError:
            refused += 1
    assert read > 50
    assert refused > 50


def test_a_changed_value_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    base = torch.arange(8.0)
    torch.save({"whole": torch.full((4,), 7.5), "part": base[2:4], "other": base[6:]}, path)
    content = path.read_bytes()
    for values in (torch.full((4,), 7.5), base):
        at = content.index(bits(values))
        changed = bytearray(content)
        changed[at + 9] ^= 1
        path.write_bytes(changed)
        file = open_torch(path)
        names = ["whole"] if len(values) == 4 else ["part", "other"]
        for tensor_name in names:
            with pytest.raises(WeightsError, match=rf"a\.pt: {tensor_name}: damaged: .*CRC-32"):
                file.tensors[tensor_name].read()
        for tensor_name in {"whole", "part", "other"} - {*names}:
            file.tensors[tensor_name].read()


def test_a_file_that_was_written_without_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"a": torch.arange(3.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert open_torch(path).tensors["a"].read().tolist() == [0, 1, 2]


@both_forms
def test_a_file_that_shrinks_while_it_is_open_is_told_with_the_tensor(
    save: Save, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    save({"a.weight": torch.arange(5000.0)}, path)
    stored = open_torch(path).tensors["a.weight"]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"a\.weight"):
        stored.read()
    path.unlink()
    with pytest.raises(WeightsError, match=r"a\.weight cannot be read \(No such file"):
        stored.read()


def test_bools_are_0_or_1_whatever_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    code = dict_of({"a": tensor((4,))}).replace(b"FloatStorage", b"BoolStorage")
    path.write_bytes(zip_file(code, {"0": b"\x00\x01\x02\xff"}))
    (placed,) = read_contents(path).value.values()
    read = torch_file._read(placed, path, "a")
    assert bits(read) == b"\x00\x01\x01\x01"


def test_a_folder_or_a_missing_file_is_told(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "a folder, expected"), (tmp_path / "no.pt", "no such weights")):
        with pytest.raises(WeightsError, match=said):
            open_torch(path)


def test_limits_hold_where_they_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(zip_file(list_of(*[b"N"] * 93)))  # 98 operations with those around
    monkeypatch.setattr(pickled, "MAX_OPERATIONS", 98)
    assert read_tensors(path) == [None] * 93
    monkeypatch.setattr(pickled, "MAX_OPERATIONS", 97)
    with pytest.raises(WeightsError, match="more than 97 operations"):
        read_tensors(path)


def test_a_deep_value_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(zip_file(b"]" * 64 + b"a" * 63))
    read_tensors(path)
    path.write_bytes(zip_file(b"]" * 65 + b"a" * 64))
    with pytest.raises(WeightsError, match="more than 64 deep"):
        read_tensors(path)


def test_an_old_file_with_a_large_pickle_is_told_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(old_file(list_of(*[number(7)] * 1000)))
    monkeypatch.setattr(torch_file, "MAX_BYTES", 1000)
    monkeypatch.setattr(pickled, "MAX_BYTES", 1000)
    with pytest.raises(WeightsError, match="a pickle of more than 1000 bytes"):
        read_tensors(path)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    namespace_file(tmp_path / "a.pt")
    errors: list[BaseException] = []

    def work(inert: bool) -> None:
        for _ in range(20):
            try:
                open_torch(tmp_path / "a.pt", inert=inert)
                assert inert
            except WeightsError:
                assert not inert
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
