# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet.errors import WeightsError
from effdet.weights import Checkpoint, load_checkpoint, load_model, load_state, save_checkpoint

Make = Callable[..., Checkpoint]


def same(a: Any, b: Any) -> bool:
    """Equal names and bit-equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def small(make_checkpoint: Make) -> Checkpoint:
    """A checkpoint with two tensors only: reading a file does not look into them."""
    full = make_checkpoint()
    state = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
    return dataclasses.replace(full, model=state, ema={n: t + 1 for n, t in state.items()})


@pytest.fixture
def saved(small: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_checkpoint(small, path)
    return path


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
    assert same(loaded.best_weights(), checkpoint.model)


def test_the_average_is_taken_unless_unwanted(small: Checkpoint) -> None:
    assert small.best_weights() is small.ema
    assert small.best_weights(use_ema=False) is small.model


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


def test_saving_leaves_one_file_that_all_may_read(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["model.pt"]
    assert saved.stat().st_mode & 0o777 == 0o644


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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.pt") == "no such weights file"
    assert refusal(tmp_path) == "no such weights file"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_called_damaged(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert refusal(saved) == "damaged or not a PyTorch file"


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x02}q\x00.", bytes(1000)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert "not a" in message
    assert "arbitrary code" not in message  # PyTorch's advice to run what is in the file


def test_flipped_bytes_never_end_in_another_error(saved: Path) -> None:
    content = saved.read_bytes()
    start = content.index(b"data.pkl") + 64
    for position in range(start, len(content), 13):
        broken = bytearray(content)
        broken[position] ^= 0xFF
        saved.write_bytes(broken)
        try:
            load_checkpoint(saved)
        except WeightsError as error:
            assert str(error).startswith(f"{saved}: ")  # noqa: PT017


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
    torch.save(values | {"version": 2}, saved)
    assert refusal(saved) == (
        "checkpoint version 2, this toolkit reads up to 1; upgrade effdet-toolkit"
    )


@pytest.mark.parametrize(
    "name", ["version", "model_config", "class_map", "model", "ema", "metrics", "training"]
)
@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_a_missing_or_wrong_entry_is_refused(saved: Path, name: str, fault: str) -> None:
    values = torch.load(saved, weights_only=True)
    if fault == "missing":
        del values[name]
    else:
        values[name] = "word"
    torch.save(values, saved)
    assert refusal(saved) == f"checkpoint with a missing or wrong entry ({name})"


def test_a_setting_of_another_toolkit_version_is_refused(saved: Path) -> None:
    values = torch.load(saved, weights_only=True)
    values["model_config"]["attention"] = True
    torch.save(values, saved)
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
