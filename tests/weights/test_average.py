# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet.cli import run_command
from effdet.config import ModelConfig, model_config
from effdet.errors import EffdetError, UsageError, WeightsError
from effdet.structures import ClassMap
from effdet.weights import (
    Checkpoint,
    average_checkpoints,
    load_checkpoint,
    load_detector,
    load_model,
    save_checkpoint,
)
from effdet.weights.published import is_published, save_published
from tests.tiny import tiny_model
from tests.weights.conftest import weights

CLASSES = ClassMap(("cat", "dog"), (1, 2))
STEM, MEAN, COUNTER = (
    f"backbone.stem.{name}" for name in ("conv.weight", "bn.running_mean", "bn.num_batches_tracked")
)


@pytest.fixture(scope="module")
def config() -> Iterator[ModelConfig]:
    with tiny_model():
        yield model_config("tiny", num_classes=2)


@pytest.fixture
def write(config: ModelConfig, tmp_path: Path) -> Any:
    """Writes a checkpoint whose floating tensors are ``value`` everywhere."""

    def _write(name: str, value: float, ap: float | None = None, **changes: Any) -> Path:
        state = {
            n: torch.full_like(t, value) if t.is_floating_point() else t + int(value)
            for n, t in weights(config).items()
        }
        checkpoint = Checkpoint(
            model_config=config,
            class_map=CLASSES,
            model=state,
            ema=None,
            metrics={} if ap is None else {"AP": ap, "epoch": 1},
            training={"step": 3},
        )
        save_checkpoint(dataclasses.replace(checkpoint, **changes), tmp_path / name)
        return tmp_path / name

    return _write


def average(*words: str | Path) -> None:
    run_command(["average", *map(str, words)])


def test_weights_and_statistics_are_averaged_and_counters_kept(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write("a.pt", 1.0), write("b.pt", 2.0), write("c.pt", 6.0)]
    average(*files, "--output", tmp_path / "out.pt")
    assert f"out.pt: average of 3 checkpoints: {files[0]}, " in capsys.readouterr().out
    found = load_checkpoint(tmp_path / "out.pt")
    assert found.model[STEM].dtype == torch.float32
    assert {float(found.model[name].max()) for name in (STEM, MEAN)} == {3.0}
    assert found.model[COUNTER] == 1
    assert (found.ema, found.metrics, found.training) == (None, {}, {})
    load_model(found, "out.pt")


def test_sums_are_in_float64(write: Any) -> None:
    """In float32 the small number would be lost beside the large ones."""
    files = [write("a.pt", 1e8), write("b.pt", 1.0), write("c.pt", -1e8)]
    assert float(average_checkpoints(files).model[STEM].max()) == pytest.approx(1 / 3)


def test_the_better_weights_of_each_file_are_taken(write: Any, config: ModelConfig) -> None:
    averaged = {n: t + 10 for n, t in weights(config).items()}
    spoilt = {n: torch.zeros_like(t) for n, t in averaged.items()}
    with_ema: dict[str, Any] = {"model": spoilt, "ema": averaged, "chosen": "ema"}
    files = [write("a.pt", 0.0, **with_ema), write("b.pt", 0.0, **with_ema)]
    expected = averaged[STEM]
    assert torch.equal(average_checkpoints(files).model[STEM], expected)
    assert not average_checkpoints(files, use_ema=False).model[STEM].any()


def test_the_best_are_those_with_the_highest_ap(write: Any, tmp_path: Path) -> None:
    files = [write(f"{i}.pt", i, ap) for i, ap in enumerate((0.2, 0.5, 0.1, 0.3))]
    average(*files, "--best", "2", "--output", tmp_path / "out.pt")
    assert float(load_checkpoint(tmp_path / "out.pt").model[STEM].max()) == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_map": ClassMap(("cat", "cow"), (1, 2))}, "its classes are not those of .*cow"),
        ({"class_map": ClassMap(("cat", "dog"), (1, 3))}, "the category ids differ"),
    ],
)
def test_other_classes_are_refused(write: Any, changes: dict[str, Any], message: str) -> None:
    files = [write("a.pt", 1.0), write("b.pt", 1.0, **changes)]
    with pytest.raises(WeightsError, match=rf"b\.pt: .*{message}"):
        average_checkpoints(files)


def test_another_model_is_refused_by_what_differs(write: Any, config: ModelConfig) -> None:
    other = dataclasses.replace(config, anchor_scale=3.0)
    files = [write("a.pt", 1.0), write("b.pt", 1.0, model_config=other)]
    with pytest.raises(WeightsError, match=r"b.pt: its model has anchor_scale 3.0, .*a.pt 4.0"):
        average_checkpoints(files)


def changed(state: dict[str, Tensor], name: str, value: Any) -> dict[str, Any]:
    return {**state, name: value}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((3,), math.inf), "is torch.float32 \\[3\\], in .*a.pt torch.float32 \\[8\\]"),
        (torch.zeros(8, dtype=torch.float64), "is torch.float64 \\[8\\]"),
        (torch.full((8,), math.nan), "is not finite everywhere"),
        ("text", "is not a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    write: Any, config: ModelConfig, value: Any, message: str
) -> None:
    odd = changed(weights(config), MEAN, value)
    files = [write("a.pt", 1.0), write("b.pt", 1.0)]

    def load(path: Path) -> Checkpoint:  # such a file cannot be written
        checkpoint = load_checkpoint(path)
        return dataclasses.replace(checkpoint, model=odd) if path == files[1] else checkpoint

    with pytest.raises(WeightsError, match=rf"b\.pt: {MEAN} {message}"):
        average_checkpoints(files, load=load)


def test_a_tensor_of_one_file_alone_is_named(write: Any, config: ModelConfig) -> None:
    files = [
        write("a.pt", 1.0),
        write("b.pt", 1.0, model=changed(weights(config), "x", torch.ones(1))),
    ]
    with pytest.raises(WeightsError, match=r"b\.pt: weights of another model: x is unknown"):
        average_checkpoints(files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.pt", "--output", "o.pt"), "two checkpoints or more, got 1"),
        (("a.pt", "./a.pt", "--output", "o.pt"), "a.pt is given twice"),
        (("a.pt", "b.pt", "--output", "b.pt"), "b.pt is there already"),
        (
            ("a.pt", "b.pt", "--output", "o.pt", "--best", "3"),
            "--best 3 of 2 checkpoints: give more",
        ),
        (("a.pt", "b.pt", "--output", "o.pt", "--best", "1"), "best must be 2 or more"),
        (("a.pt", "b.pt", "--output", "o.pt", "--best", "2"), "b.pt: has no AP"),
        (("a.pt", "c.pt", "--output", "o.pt"), "c.pt: no such weights file"),
        (("a.pt", "b.pt"), "--output is needed"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    write: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    write("a.pt", 1.0, 0.5), write("b.pt", 2.0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EffdetError, match=message) as caught:
        average(*words)
    assert isinstance(caught.value, UsageError | WeightsError)
    assert not Path("o.pt").exists()


def test_both_forms_are_averaged_and_written(write: Any, tmp_path: Path) -> None:
    published, checkpoint = tmp_path / "a.safetensors", write("b.pt", 3.0)
    save_published(load_checkpoint(write("a.pt", 1.0)), published)
    for name in ("average.pt", "average.safetensors"):
        output = tmp_path / name
        run_command(["average", str(published), str(checkpoint), "--output", str(output)])
        assert is_published(output) == (output.suffix == ".safetensors")
        assert (load_detector(output).model[STEM] == 2).all()
    with pytest.raises(UsageError, match=r"a\.onnx: expected a name that ends with"):
        run_command(
            ["average", str(published), str(checkpoint), "--output", str(tmp_path / "a.onnx")]
        )
