# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from effdet.errors import DivergedError, WeightsError
from effdet.weights import Checkpoint, load_model
from effdet.weights.published import (
    is_published,
    load_published,
    published_values,
    save_published,
)

Make = Callable[..., Checkpoint]


@pytest.fixture
def small(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint of a model that has few tensors."""
    state = {
        "weight": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([0.5], dtype=torch.bfloat16),
        "num_batches_tracked": torch.tensor(7),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    monkeypatch.setattr("effdet.weights.published.our_shapes", lambda config: shapes)
    return dataclasses.replace(
        make_checkpoint(),
        model=state,
        ema={name: tensor + 1 for name, tensor in state.items()},
        training={
            "step": 40,
            "optimizer": {"state": {0: torch.ones(2)}},
            "config": {"data": "/home/me/bccd", "train_split": "train"},
        },
    )


@pytest.fixture
def saved(small: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "cells.safetensors"
    save_published(small, path, licence="CC BY 4.0", origin="somebody, a.pth, sha256 12")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_published(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def rewrite(path: Path, **changes: Any) -> None:
    """Other metadata with a right digest, as somebody may write it on purpose."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **changes, "digest": "sha256:" + "0" * 64}
    tensors = load_file(path)
    save_file(tensors, path, {k: v for k, v in metadata.items() if v is not None})
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content.replace(b"sha256:" + b"0" * 64, b"sha256:" + digest, 1))


def test_the_chosen_weights_come_back_with_all_that_using_them_takes(
    small: Checkpoint, saved: Path
) -> None:
    loaded = load_published(saved)
    assert loaded.model_config == small.model_config
    assert loaded.class_map == small.class_map
    assert loaded.metrics == small.metrics
    assert loaded.licence == "CC BY 4.0"
    assert loaded.origin == "somebody, a.pth, sha256 12"
    assert loaded.summary == {"epochs": 3, "steps": 40, "data": "bccd", "split": "train"}
    assert loaded.training == {}
    assert loaded.ema is None
    assert loaded.chosen == "raw"
    assert small.ema is not None
    assert loaded.model.keys() == small.ema.keys()
    for name, tensor in small.ema.items():
        assert loaded.model[name].dtype == tensor.dtype
        assert torch.equal(loaded.model[name], tensor)


def test_raw_weights_are_written_where_they_are_chosen(small: Checkpoint, tmp_path: Path) -> None:
    save_published(dataclasses.replace(small, chosen="raw"), tmp_path / "a.safetensors")
    loaded = load_published(tmp_path / "a.safetensors")
    assert torch.equal(loaded.model["weight"], small.model["weight"])


def test_a_model_is_built_from_it(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    path = tmp_path / "a.safetensors"
    save_published(checkpoint, path)
    loaded = load_published(path)
    model = load_model(loaded, path)
    expected = checkpoint.best_weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_writing_what_was_read_gives_the_same_file(saved: Path, tmp_path: Path) -> None:
    save_published(load_published(saved), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_other_programs_read_tensors_and_how_to_use_them(small: Checkpoint, saved: Path) -> None:
    tensors = load_file(saved)
    assert small.ema is not None
    assert all(torch.equal(tensors[name], tensor) for name, tensor in small.ema.items())
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "effdet"
    assert json.loads(metadata["class_map"])["names"] == ["cat", None, "dog"]
    how = json.loads(metadata["preprocessing"])
    assert how["image_size"] == [64, 96]
    assert how["mean"] == [127.0, 127.0, 127.0]
    assert how["std"] == [128.0, 128.0, 128.0]
    assert how["channel_order"] == "RGB"
    assert how["resize"].keys() == {"rule", "interpolation", "position", "fill"}


def test_tensors_begin_at_multiples_of_their_elements(saved: Path) -> None:
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    starts = {n: v["data_offsets"][0] for n, v in header.items() if n != "__metadata__"}
    assert starts == {"num_batches_tracked": 0, "weight": 8, "half": 32}


def test_metrics_that_json_has_not_become_none(small: Checkpoint, tmp_path: Path) -> None:
    metrics = {"AP": float("nan"), "curve": [1.0, float("inf")], 3: (1, 2)}
    save_published(dataclasses.replace(small, metrics=metrics), tmp_path / "a.safetensors")
    loaded = load_published(tmp_path / "a.safetensors")
    assert loaded.metrics == {"AP": None, "curve": [1.0, None], "3": [1, 2]}


def test_any_changed_byte_is_found(saved: Path) -> None:
    content = saved.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= (1, 0x20, 0x80)[at % 3]
        saved.write_bytes(changed)
        refusal(saved)


def test_a_changed_value_is_told_with_both_digests(saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = hashlib.sha256(without_digest(saved.read_bytes())).hexdigest()
    expected = hashlib.sha256(without_digest(content)).hexdigest()
    assert refusal(saved) == (
        "damaged: not the bytes that were written "
        f"(expected sha256 {expected[:16]}..., found {found[:16]}...)"
    )


def without_digest(content: bytes) -> bytes:
    at = content.index(b'"digest":"sha256:') + 17
    return content[:at] + b"0" * 64 + content[at + 64 :]


def test_a_cut_or_longer_file_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(0, len(content), 13):
        saved.write_bytes(content[:length])
        refusal(saved)
    saved.write_bytes(content + b"\0")
    refusal(saved)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_published(
    small: Checkpoint, saved: Path, bad: float
) -> None:
    before = saved.read_bytes()
    with pytest.raises(DivergedError, match="weight is not finite"):
        save_published(dataclasses.replace(small, ema={"weight": torch.tensor([bad])}), saved)
    assert saved.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(
    small: Checkpoint, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_published(dataclasses.replace(small, chosen="raw"), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pt"}, "not published by this toolkit"),
        ({"format": None}, "not published by this toolkit"),
        ({"version": "2"}, "version 2, this toolkit reads up to 1; upgrade effdet-toolkit"),
        ({"version": None}, "metadata without a version"),
        ({"version": "9" * 5000}, "metadata without a version"),
        ({"model_config": None}, "metadata model_config are missing"),
        ({"class_map": "{"}, "metadata class_map are missing or no JSON"),
        ({"metrics": "[1]"}, "metadata metrics are no names with values"),
        ({"training": "[" * 50_000}, "metadata training are missing or no JSON"),
        ({"model_config": "{}"}, "has a missing or wrong entry"),
        ({"class_map": '{"names": 3, "category_ids": 3}'}, "has a missing or wrong entry"),
        (
            {"class_map": '{"names": ["cat"], "category_ids": [1]}'},
            "names for 1 class outputs, but the model has 3",
        ),
    ],
)
def test_metadata_that_contradict_are_refused(
    changes: dict[str, Any], message: str, saved: Path
) -> None:
    rewrite(saved)
    load_published(saved)
    rewrite(saved, **changes)
    assert message in refusal(saved)


def test_a_digest_left_out_is_told(saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content.replace(b'"digest"', b'"digert"'))
    assert refusal(saved) == "damaged: its SHA-256 is missing or changed"


def test_published_files_are_known_by_their_metadata(saved: Path, tmp_path: Path) -> None:
    assert is_published(saved)
    assert is_published(str(saved))
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors", {"format": "pt"})
    assert not is_published(tmp_path / "b.safetensors")
    (tmp_path / "c").write_bytes(b"text")
    assert not is_published(tmp_path / "c")
    assert not is_published(tmp_path / "no")
    assert not is_published(tmp_path)


def test_what_a_file_says_of_itself_is_told_without_its_tensors(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        values = published_values(file.metadata(), saved)
    assert values["model_config"]["name"] == "efficientdet_lite0"
    assert values["licence"] == "CC BY 4.0"
    assert values["training"]["epochs"] == 3
