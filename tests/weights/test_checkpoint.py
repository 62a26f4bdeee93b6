# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet.errors import DivergedError, WeightsError
from effdet.weights import Checkpoint, load_checkpoint, load_model, load_state, save_checkpoint
from effdet.weights.checkpoint import is_checkpoint, peek_step

Make = Callable[..., Checkpoint]


def same(a: Any, b: Any) -> bool:
    """Equal names and bit-equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def small(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint of a model that has two tensors only."""
    full = make_checkpoint()
    state = {"weight": torch.arange(6.0).reshape(2, 3), "num_batches_tracked": torch.tensor(7)}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    monkeypatch.setattr("effdet.weights.entries.our_shapes", lambda config: shapes)
    return dataclasses.replace(full, model=state, ema={n: t + 1 for n, t in state.items()})


@pytest.fixture
def saved(small: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_checkpoint(small, path)
    return path


def write(values: Any, path: Path) -> None:
    """Version 2: the comment of the zip file is the digest of all bytes before."""
    torch.save(values, path)
    content = path.read_bytes()[:-2] + struct.pack("<H", 78)
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content + f"effdet sha256:{digest}".encode())


def refusal(path: Path) -> str:
    """The message that reading ``path`` ends with; it starts with the file's name."""
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_checkpoint_comes_back_as_it_was(small: Checkpoint, saved: Path) -> None:
    before, after = small, load_checkpoint(saved)
    assert after.model_config == before.model_config
    assert after.class_map == before.class_map
    assert after.metrics == before.metrics
    assert after.chosen == before.chosen == "ema"
    assert same(after.model, before.model)
    assert after.ema is not None
    assert before.ema is not None
    assert same(after.ema, before.ema)
    assert after.training["step"] == 12
    assert after.training["optimizer"]["state"][0].tolist() == [1, 1]


def test_a_checkpoint_without_average_gives_the_weights(small: Checkpoint, tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(small, ema=None)
    save_checkpoint(checkpoint, tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt")
    assert loaded.ema is None
    assert loaded.chosen == "raw"
    assert same(loaded.best_weights(), checkpoint.model)


def test_the_average_is_taken_unless_unwanted(small: Checkpoint) -> None:
    assert small.best_weights() is small.ema
    assert small.best_weights(use_ema=False) is small.model


def test_raw_weights_that_were_better_are_taken(small: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(dataclasses.replace(small, chosen="raw"), tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt")
    assert loaded.chosen == "raw"
    assert loaded.best_weights() is loaded.model
    assert loaded.best_weights(use_ema=False) is loaded.model


@pytest.mark.parametrize("use_ema", [True, False])
def test_the_model_of_a_checkpoint_is_ready_to_use(
    make_checkpoint: Make, tmp_path: Path, use_ema: bool
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(make_checkpoint(), path)
    checkpoint = load_checkpoint(path)
    model = load_model(checkpoint, path, use_ema=use_ema)
    assert not model.training
    assert same(model.state_dict(), checkpoint.best_weights(use_ema))
    with torch.no_grad():
        cls_logits, _ = model(torch.zeros(1, 3, 64, 96))
    assert [level.shape[1] for level in cls_logits] == [9 * 3] * 5


def test_saving_leaves_one_file(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("where", ["save", "fsync"])
def test_a_failed_write_leaves_the_old_file(
    where: str, saved: Path, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def half(values: object, file: Any) -> None:
        file.write(b"half a file")
        full()

    if where == "save":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(small, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["model", "ema", "training"])
def test_weights_that_are_not_finite_never_replace_finite_ones(
    saved: Path, small: Checkpoint, where: str, bad: float
) -> None:
    before = saved.read_bytes()
    values = {"good": torch.ones(2), "weight": torch.tensor([1.0, bad])}
    changes: dict[str, Any] = {where: {"optimizer": values} if where == "training" else values}
    with pytest.raises(DivergedError, match=rf"model\.pt is not written: {where}.*'weight'"):
        save_checkpoint(dataclasses.replace(small, **changes), saved)
    assert saved.read_bytes() == before


class Name(str):
    """A string of a class of its own."""


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Path("runs/a"), "PosixPath"),
        (np.ones(2), "numpy.ndarray"),
        (Name("a"), "Name"),
        ({1, 2}, "builtins.set"),
        (torch.float32, "torch.dtype"),
        (1j, "complex"),
    ],
)
def test_what_could_not_be_read_again_is_refused_with_its_place(
    saved: Path, small: Checkpoint, value: object, kind: str
) -> None:
    before = saved.read_bytes()
    training = {"config": {"output": [0, value]}}
    with pytest.raises(
        TypeError, match=rf"entry training\['config'\]\['output'\]\[1\] is .*{kind}"
    ):
        save_checkpoint(dataclasses.replace(small, training=training), saved)
    assert saved.read_bytes() == before


def test_a_key_that_could_not_be_read_again_is_refused(saved: Path, small: Checkpoint) -> None:
    training = {"seen": {Path("a.jpg"): 1}}
    with pytest.raises(TypeError, match=r"training\['seen'\]: the key PosixPath\('a.jpg'\)"):
        save_checkpoint(dataclasses.replace(small, training=training), saved)


def test_plain_values_of_every_kind_come_back(saved: Path, small: Checkpoint) -> None:
    training = {
        "numbers": [2**100, -(2**70), 0.1, True, None, float("-inf")],
        "text": "\u00fc\udc80",  # a file name that is no Unicode, as the system gives it
        "bytes": b"\x00\xff",
        (1, "key"): {0: (1, [2, ()])},
        "rng": torch.get_rng_state(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    save_checkpoint(dataclasses.replace(small, training=training), saved)
    loaded = dict(load_checkpoint(saved).training)
    for name in ("rng", "parameter"):
        assert torch.equal(loaded.pop(name), training.pop(name).detach())
    assert loaded == training


def test_numbers_of_numpy_become_plain_ones(saved: Path, small: Checkpoint) -> None:
    metrics = {"AP": np.float64(0.25), "AP50": np.float32(0.5), "epoch": np.int64(3)}
    save_checkpoint(dataclasses.replace(small, metrics=metrics), saved)
    loaded = load_checkpoint(saved).metrics
    assert loaded == {"AP": 0.25, "AP50": 0.5, "epoch": 3}
    assert [type(value) for value in loaded.values()] == [float, float, int]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.pt") == "no such weights file"
    assert refusal(tmp_path) == "a folder, expected a weights file"


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_a_truncated_file_is_called_damaged(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert refusal(saved).startswith("damaged")


def test_a_changed_byte_is_told_with_both_digests(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    expected = content[-64:].decode()
    content[len(content) // 2] ^= 1
    found = hashlib.sha256(content[:-78]).hexdigest()
    saved.write_bytes(content)
    assert refusal(saved) == (
        "damaged: not the bytes that were written "
        f"(expected sha256 {expected[:16]}..., found {found[:16]}...)"
    )


def test_a_file_of_this_version_without_its_digest_is_refused(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    torch.save(values, saved)
    assert refusal(saved) == "damaged: cut or changed at its end, its SHA-256 is missing"
    write(values, saved)
    assert load_checkpoint(saved).training["step"] == 12


def test_any_pytorch_reads_the_file(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    assert values["format"] == "effdet"
    assert values["version"] == 2


@pytest.mark.parametrize("average", [True, False])
def test_a_file_of_version_1_is_still_read(saved: Path, small: Checkpoint, average: bool) -> None:
    values = torch.load(saved, weights_only=True)
    del values["chosen"]
    values["version"] = 1
    if not average:
        values["ema"] = None
    torch.save(values, saved)
    loaded = load_checkpoint(saved)
    assert same(loaded.model, small.model)
    assert loaded.chosen == ("ema" if average else "raw")
    expected = small.ema if average else small.model
    assert expected is not None
    assert same(loaded.best_weights(), expected)


@pytest.mark.parametrize("content", [b"<html>", b"GIF", b"\x80\x02}q\x00.", bytes(1000)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert "not a" in message or "not weights" in message
    assert "arbitrary code" not in message  # PyTorch's advice to run what is in the file


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "attack.pt"
    torch.save({"format": "effdet", "model": Attack()}, path)
    assert refusal(path).startswith("holds posix.mkdir, which is neither a tensor nor a plain")
    path.write_bytes(pickle.dumps(Attack(), protocol=2))
    assert refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("values", [{"weight": torch.ones(2)}, torch.ones(2), {"format": "other"}])
def test_foreign_weights_are_told_where_to_go(tmp_path: Path, values: object) -> None:
    torch.save(values, tmp_path / "m.pth")
    message = refusal(tmp_path / "m.pth")
    assert "not a checkpoint of this toolkit" in message
    assert "--backbone-weights" in message


def test_a_later_version_asks_for_an_upgrade(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    write(values | {"version": 3}, saved)
    assert refusal(saved) == (
        "checkpoint version 3, this toolkit reads up to 2; upgrade effdet-toolkit"
    )


@pytest.mark.parametrize(
    "name",
    ["version", "model_config", "class_map", "model", "ema", "chosen", "metrics", "training"],
)
@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_a_missing_or_wrong_entry_is_refused(saved: Path, name: str, fault: str) -> None:
    values = torch.load(saved, weights_only=True)
    if fault == "missing":
        del values[name]
    else:
        values[name] = "word"
    write(values, saved)
    assert refusal(saved) == f"checkpoint with a missing or wrong entry ({name})"


def test_a_setting_of_another_toolkit_version_is_refused(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    values["model_config"]["attention"] = True
    write(values, saved)
    assert "attention" in refusal(saved)


def test_weights_of_another_model_are_named_tensor_by_tensor() -> None:
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.clone()
    state = {"weight": torch.zeros(4, 2), "scale": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        load_state(layer, state, "a.pt")
    assert str(caught.value) == (
        "a.pt: weights of another model: bias is missing; scale is unknown; "
        "weight is [4, 2], expected [3, 2]"
    )
    assert torch.equal(layer.weight, before)
    with pytest.raises(WeightsError, match="and 2 more"):
        load_state(layer, {str(i): torch.zeros(1) for i in range(3)}, "a.pt")


def test_a_class_map_that_contradicts_the_head_is_refused(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    values["model_config"]["num_classes"] = 4
    write(values, saved)
    assert refusal(saved) == "names for 3 class outputs, but the model has 4"


def test_licence_and_origin_travel_along(saved: Path, small: Checkpoint) -> None:
    changes = {"licence": "CC BY 4.0", "origin": "google/automl", "summary": {"epochs": 300}}
    save_checkpoint(dataclasses.replace(small, **changes), saved)
    loaded = load_checkpoint(saved)
    assert {name: getattr(loaded, name) for name in changes} == changes


@pytest.mark.parametrize("name", ["licence", "origin", "summary"])
def test_files_from_before_them_are_read_and_wrong_ones_refused(saved: Path, name: str) -> None:
    values = torch.load(saved, weights_only=True)
    write({key: value for key, value in values.items() if key != name}, saved)
    assert not getattr(load_checkpoint(saved), name)
    write(values | {name: 3}, saved)
    assert refusal(saved) == f"checkpoint with a missing or wrong entry ({name})"


@pytest.mark.parametrize("key", [0.5, 2**60, -(2**60), (1, 2, 3), (1, 2**31), "k" * 5000])
def test_a_key_that_the_reader_refuses_is_not_written(
    saved: Path, small: Checkpoint, key: object
) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError, match="could not be read again"):
        save_checkpoint(dataclasses.replace(small, training={"a": {key: 1}}), saved)
    assert saved.read_bytes() == before


def test_the_history_of_a_very_long_run_is_read_again(saved: Path, small: Checkpoint) -> None:
    history = [{f"figure {i}": epoch + i / 7 for i in range(20)} for epoch in range(10_000)]
    save_checkpoint(dataclasses.replace(small, training={"history": history}), saved)
    assert load_checkpoint(saved).training["history"] == history


def test_empty_bytes_which_pytorch_cannot_read_are_not_written(
    saved: Path, small: Checkpoint
) -> None:
    with pytest.raises(TypeError, match=r"training\['a'\] is empty bytes"):
        save_checkpoint(dataclasses.replace(small, training={"a": b""}), saved)


def test_our_files_are_known_without_reading_their_tensors(saved: Path, tmp_path: Path) -> None:
    assert is_checkpoint(saved)
    content = saved.read_bytes()
    saved.write_bytes(b"PK\x03\x04" + bytes(200) + content[204:])
    assert is_checkpoint(saved)  # damaged, as load_checkpoint says
    torch.save({"a": torch.ones(1)}, saved)
    assert not is_checkpoint(saved)
    saved.write_bytes(b"text")
    assert not is_checkpoint(saved)
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "no.pt")


def test_the_step_is_told_without_reading_tensors(
    saved: Path, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    assert peek_step(saved) == 12
    save_checkpoint(dataclasses.replace(small, training={}), saved)
    assert peek_step(saved) == -1
    saved.write_bytes(saved.read_bytes()[:-100])
    assert peek_step(saved) == math.inf
