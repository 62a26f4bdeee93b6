# SPDX-License-Identifier: Apache-2.0
"""Whole runs of train.py that freeze a part, for the first epochs or throughout."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet.config import model_config
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, load_checkpoint, save_checkpoint
from tests.runs import tiny_coco, torchrun
from tests.test_resume_runs import _stopping as _stopping
from tests.test_resume_runs import go_on, same_end, start
from tests.tiny import TINY, differing, final_state, logged_steps, tiny_model, train_here

RUN = (
    *TINY, "--epochs", "3", "--batch-size", "2", "--log-every", "1", "--eval-every", "3",
    "--max-candidates", "100", "--ema-decay", "0.5",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_model():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "a", images=4)


@pytest.fixture(scope="module")
def larger_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "b", images=8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the data's two classes, and another."""
    torch.manual_seed(5)
    config = model_config("tiny", num_classes=2)
    checkpoint = Checkpoint(
        model_config=config,
        class_map=ClassMap(("red", "Blue"), (1, 2)),
        model=build_model(config).state_dict(),
        ema=None,
        metrics={},
        training={},
    )
    path = tmp_path_factory.mktemp("weights") / "detector.pt"
    save_checkpoint(checkpoint, path)
    return path


def kept(state: Mapping[str, Tensor] | None, first: Mapping[str, Tensor]) -> set[str]:
    """The parts of the network all of whose tensors are still those of ``first``."""
    assert state is not None
    moved = {n.split(".")[0] for n in first if not same_bytes(state[n], first[n])}
    return {n.split(".")[0] for n in first} - moved


def same_bytes(first: Tensor, second: Tensor) -> bool:
    return first.numpy().tobytes() == second.numpy().tobytes()


def test_a_frozen_part_is_saved_as_it_was_read(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, statistics and their average, over three epochs with validations between."""
    words = (*RUN, "--data", data, "--weights", detector, "--lr", "0.02", "--eval-every", "1")
    assert train_here(*words, "--freeze", "backbone", "box_head", "--output", tmp_path / "a") == 0
    first, last = load_checkpoint(detector), load_checkpoint(tmp_path / "a" / "last.pt")
    assert kept(last.model, first.model) == kept(last.ema, first.model) == {"backbone", "box_head"}
    printed = capsys.readouterr().out
    assert "class head 1/2 rows by name (blue), 1 new" in printed
    model = build_model(first.model_config)
    learning = sum(p.numel() for part in (model.bifpn, model.class_head) for p in part.parameters())
    assert f"freeze   backbone box_head  {learning:,} parameters learn" in printed


def test_heads_first_then_everything_at_a_lower_rate(
    data: Path, detector: Path, tmp_path: Path
) -> None:
    words = (*RUN, "--data", data, "--weights", detector, "--lr", "0.02", "--schedule", "constant")
    words = (*words, "--freeze-epochs", "2", "--unfreeze-lr-factor", "0.25", "--save-every", "1")
    assert train_here(*words, "--warmup-epochs", "0", "--output", tmp_path / "a") == 0
    first = load_checkpoint(detector).model
    by_epoch = [load_checkpoint(tmp_path / "a" / f"epoch-000{i}.pt") for i in (1, 2, 3)]
    assert [kept(c.model, first) for c in by_epoch] == [{"backbone", "bifpn"}] * 2 + [set()]
    assert kept(by_epoch[1].ema, first) == {"backbone", "bifpn"}
    rates = [values["lr"] for _, values in logged_steps(tmp_path / "a")]
    full = 0.02 * 2 / 64
    assert rates == pytest.approx([full] * 4 + [0.25 * full] * 2)
    states = [len(c.training["optimizer"]["state"]) for c in by_epoch]
    assert states[0] == states[1] < states[2]


# The first phase ends with step 2 of 6.
CASES = {
    "two phases, AdamW, factors": ((2, 3), (
        "--freeze-epochs", "1", "--lr-factors", "backbone=0.1", "bifpn=0.5", "--optimizer", "adamw",
        "--lr", "0.01",
    )),
    "both, accumulate, 16 bits": ((1, 5), (
        "--freeze", "backbone.stem", "backbone.blocks.[0-2].*", "--freeze-epochs", "1", "--amp",
        "--accumulate", "2", "--lr", "0.02",
    )),
}  # fmt: skip


@pytest.mark.parametrize(("stops", "words"), CASES.values(), ids=CASES.keys())
def test_stopped_in_either_phase_or_between_a_run_goes_on_exactly(
    stops: tuple[int, ...],
    words: tuple[str, ...],
    data: Path,
    larger_data: Path,
    detector: Path,
    tmp_path: Path,
) -> None:
    whole, used = tmp_path / "whole", larger_data if "--accumulate" in words else data
    words = (*RUN, *words, "--weights", str(detector), "--data", str(used))
    assert start(whole, *words) == 0
    assert len(logged_steps(whole)) == 6
    for call in stops:
        folder = tmp_path / f"stopped-{call}"
        assert start(folder, *words, stop_at=call) == 143
        assert go_on(folder) == 0
        same_end(folder, whole)
    print(f"N={len(stops)} of 6 steps, seed=0")


def test_what_is_frozen_is_part_of_a_run(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*RUN, "--data", data, "--weights", detector, "--freeze", "backbone")
    assert start(tmp_path / "a", *words, stop_at=1) == 143
    for other in (("--freeze", "bifpn"), ("--freeze-epochs", "1"), ("--lr-factors", "bifpn=0.5")):
        assert go_on(tmp_path / "a", *other) == 2
        assert f"is a run with other settings: {other[0]} " in capsys.readouterr().err


def test_random_values_are_not_frozen(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*RUN, "--data", data, "--output", tmp_path / "a")
    assert train_here(*words, "--freeze", "backbone") == 2
    assert "--freeze would keep backbone.blocks.0" in capsys.readouterr().err
    assert train_here(*words, "--weights", detector, "--freeze", "class_head") == 2
    assert "would keep class_head.predict.pointwise.bias as it is" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def on_three(folder: Path, stop_at: str, *words: str | Path) -> int:
    command = ("tests/tiny_train.py", folder / "ids", stop_at, *words)
    return torchrun(3, *command, check=False).returncode


@pytest.mark.slow
def test_three_processes_go_on_bit_by_bit_into_the_second_phase(
    detector: Path, tmp_path: Path
) -> None:
    """Stopped in the first; batch norms are shared by all."""
    data = tiny_coco(tmp_path / "data", images=12)
    words = (
        *RUN, "--sync-bn", "all", "--data", data, "--weights", detector, "--lr", "0.02",
        "--freeze-epochs", "1", "--freeze", "backbone.stem",
    )  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert on_three(whole, "0", *words, "--output", whole / "run") == 0
    assert on_three(again, "1", *words, "--output", again / "run") != 0
    assert on_three(again, "0", "--resume", again / "run") == 0
    assert differing(final_state(again / "run"), final_state(whole / "run")) == []
    first, last = load_checkpoint(detector).model, load_checkpoint(whole / "run" / "last.pt")
    stem = [name for name in first if name.startswith("backbone.stem.")]
    for state in (last.model, last.ema):
        assert state is not None
        assert all(same_bytes(state[name], first[name]) for name in stem)
    assert kept(last.model, first) == set()
