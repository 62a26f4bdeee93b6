# SPDX-License-Identifier: Apache-2.0
"""Two processes do what one does."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet import distributed
from effdet.config import model_config
from effdet.data.sampler import TrainSampler
from effdet.errors import UsageError
from effdet.models import build_model
from effdet.structures import Batch
from tests import twenty_steps
from tests.runs import program, tiny_coco, torchrun
from tests.tiny import TINY, differing, final_state, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "tiny", images=5)


def test_alone_there_is_one_process_and_collectives_change_nothing() -> None:
    value = torch.tensor([1.0, 2.0])
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main()
    assert torch.equal(distributed.all_reduce_sum(value), value)
    assert distributed.gather_to_main("a") == ["a"]
    assert distributed.broadcast_from_main("a") == "a"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        distributed.pick_device("gpu")


def test_two_processes_give_the_first_step_of_one(data: Path, tmp_path: Path) -> None:
    """Loss to 1e-6 (measured: equal); gradients to 1e-4 of their tensor's largest (1.9e-5)."""
    program("tests/first_step.py", data, "4", tmp_path / "one.pt")
    torchrun(2, "tests/first_step.py", data, "4", tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-6)
    for name, gradient in one["gradients"].items():
        largest = gradient.abs().max().item()
        difference = (two["gradients"][name] - gradient).abs().max().item()
        assert difference <= 1e-4 * largest, name


def test_two_processes_train_and_validate_like_one(data: Path, tmp_path: Path) -> None:
    """The run goes through, and each image is counted once: the figures agree to the last digit."""
    run = tmp_path / "run"
    torchrun(
        2, "train.py", "--data", data, "--model", "efficientdet_lite0", "--image-size", "64",
        "--batch-size", "2", "--epochs", "1", "--warmup-epochs", "0", "--workers", "0",
        "--output", run,
    )  # fmt: skip
    words = ("validate.py", "--data", data, "--weights", run / "last.pt", "--workers", "0")
    program(*words, "--metrics", tmp_path / "one.json", "--json", tmp_path / "dt1.json")
    torchrun(2, *words, "--metrics", tmp_path / "two.json", "--json", tmp_path / "dt2.json")
    figures = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    assert figures[0] == figures[1]
    found = [json.loads((tmp_path / name).read_text()) for name in ("dt1.json", "dt2.json")]
    assert len(found[0]) == len(found[1])
    assert {entry["image_id"] for entry in found[0]} == {entry["image_id"] for entry in found[1]}


# ---- 20 steps with the same global batch

ON_TWO: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "process": {"normalizer": "process", "steps": 1},
    "synchronized": {"freeze_bn": False, "sync_bn": "all", "steps": 10},
    "not synchronized": {"freeze_bn": False, "steps": 10},
    "thawed": {"frozen": "backbone.", "steps": 10},
    "boxes on rank 0 only": {"boxes_on": [0], "steps": 10},
    "no boxes": {"boxes_on": [], "steps": 10},
}


@pytest.fixture(scope="module")
def more_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "more", images=24)


@pytest.fixture(scope="module")
def alone(more_data: Path) -> dict[str, list[float]]:
    """Losses of one process, this one."""
    names = ("plain", "accumulate", "synchronized", "thawed", "no boxes")
    cases = {name: ON_TWO[name] for name in names}
    with tiny_model():
        return {
            name: twenty_steps.run(str(more_data), case)["losses"] for name, case in cases.items()
        }


@pytest.fixture(scope="module")
def on_two(more_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two processes found, in one job."""
    file = tmp_path_factory.mktemp("losses") / "two.json"
    torchrun(2, "tests/twenty_steps.py", more_data, json.dumps(ON_TWO), file)
    return dict(json.loads(file.read_text()))


def test_the_loss_is_that_of_one_process_over_20_steps(
    alone: dict[str, list[float]], on_two: dict[str, dict[str, Any]]
) -> None:
    """Measured: 1e-7, which is the rounding of float32."""
    assert len(set(alone["plain"])) == 20
    for losses in (on_two["plain"]["losses"], on_two["accumulate"]["losses"], alone["accumulate"]):
        assert losses == pytest.approx(alone["plain"], rel=1e-5, abs=0)
    print("N=20 steps, seed=0")


def test_four_processes_have_the_loss_of_one(
    alone: dict[str, list[float]], more_data: Path, tmp_path: Path
) -> None:
    torchrun(4, "tests/twenty_steps.py", more_data, '{"plain": {}}', tmp_path / "four.json")
    found = json.loads((tmp_path / "four.json").read_text())["plain"]
    assert found["losses"] == pytest.approx(alone["plain"], rel=1e-5, abs=0)
    assert found["equal"]
    print("N=20 steps, seed=0")


def test_weights_stay_the_same_on_all_processes(on_two: dict[str, dict[str, Any]]) -> None:
    assert {name: found["equal"] for name, found in on_two.items()} == dict.fromkeys(ON_TWO, True)


def test_a_part_that_learns_later_is_sent_only_then_and_the_losses_are_those_of_one_process(
    alone: dict[str, list[float]], on_two: dict[str, dict[str, Any]]
) -> None:
    found = on_two["thawed"]
    assert found["losses"] == pytest.approx(alone["thawed"], rel=1e-5, abs=0)
    assert alone["thawed"][1:] != alone["plain"][1:10]
    with tiny_model():
        model = build_model(model_config("still", num_classes=2))
    every = len(list(model.parameters()))
    assert found["sent"] == [every - len(list(model.backbone.parameters())), every]
    print("N=10 steps, seed=0")


def test_a_process_or_all_of_them_may_have_no_box(
    alone: dict[str, list[float]], on_two: dict[str, dict[str, Any]]
) -> None:
    for name in ("boxes on rank 0 only", "no boxes"):
        losses = on_two[name]["losses"]
        assert len(losses) == 10
        assert all(math.isfinite(loss) and loss > 0 for loss in losses)
        assert on_two[name]["skipped"] == 0
    assert on_two["no boxes"]["losses"] == pytest.approx(alone["no boxes"], rel=1e-5, abs=0)


def test_with_a_normalizer_of_its_own_each_process_counts_its_own_boxes(
    on_two: dict[str, dict[str, Any]], alone: dict[str, list[float]], more_data: Path
) -> None:
    """The first loss is the mean of what each half of the global batch gives alone."""
    with tiny_model():
        trainer, loader = twenty_steps.build(str(more_data), {})
    trainer.set_train_mode()
    loader.set_position(1)
    batch = next(iter(loader))
    halves = [
        Batch(images=batch.images[part], targets=batch.targets[part])
        for part in (slice(0, 4), slice(4, 8))
    ]
    losses = [trainer.backward([half])["loss"].item() for half in halves]
    (found,) = on_two["process"]["losses"]
    assert found == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert abs(found / alone["plain"][0] - 1) > 1e-3


def test_synchronized_batch_norms_train_as_those_of_one_process(
    alone: dict[str, list[float]], on_two: dict[str, dict[str, Any]]
) -> None:
    """Rounding grows with the steps, unlike with frozen statistics: 1e-7 at first, then 3e-4."""
    expected = alone["synchronized"]
    found, apart = on_two["synchronized"]["losses"], on_two["not synchronized"]["losses"]
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-3)
    assert max(abs(a / b - 1) for a, b in zip(apart, expected)) > 0.02


# ---- Going on with as many processes, and with others

UNEVEN = 23  # images
SEED = 5


def recorded(folder: Path) -> list[list[list[int]]]:
    """The image ids of each step, for each rank of it."""
    files = sorted(folder.glob("rank-*.txt"))
    lines = [[list(map(int, line.split())) for line in f.read_text().splitlines()] for f in files]
    return [list(step) for step in zip(*lines, strict=True)]


def order(epoch: int) -> list[int]:
    """Image ids of an epoch in the order in which one process with single images takes them."""
    sampler = TrainSampler(UNEVEN, 1, seed=SEED)
    sampler.set_position(epoch)
    return [key.image + 1 for (key,) in sampler]


def used(steps: list[list[list[int]]]) -> list[int]:
    """The images of all steps and ranks, one after the other."""
    return [image for step in steps for ids in step for image in ids]


@pytest.fixture(scope="module")
def uneven_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_coco(tmp_path_factory.mktemp("data") / "uneven", images=UNEVEN)


def start_three(data: Path, folder: Path, stop_at: str) -> int:
    words = (*TINY, "--data", data, "--epochs", "2", "--batch-size", "2", "--seed", str(SEED))
    words = (*words, "--eval-every", "2", "--max-candidates", "100", "--output", folder / "run")
    return torchrun(
        3, "tests/tiny_train.py", folder / "ids", stop_at, *words, check=False
    ).returncode


def go_on(processes: int, folder: Path, stop_at: str = "0", *words: str) -> int:
    shutil.rmtree(folder / "ids", ignore_errors=True)
    command = ("tests/tiny_train.py", folder / "ids", stop_at, "--resume", folder / "run", *words)
    return torchrun(processes, *command, check=False).returncode


@pytest.fixture(scope="module")
def stopped(uneven_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three processes that was stopped in the second step of its first epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    assert start_three(uneven_data, folder, "2") != 0
    status = json.loads((folder / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 143)
    return folder


def test_three_processes_go_on_bit_by_bit(stopped: Path, uneven_data: Path, tmp_path: Path) -> None:
    """A sum of three numbers depends on their order, so this needs ``Trainer.rehearse``."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert start_three(uneven_data, whole, "0") == 0
    shutil.copytree(stopped, again)
    first = recorded(again / "ids")
    assert go_on(3, again) == 0
    assert first + recorded(again / "ids") == recorded(whole / "ids")
    with tiny_model():
        assert differing(final_state(again / "run"), final_state(whole / "run")) == []


def test_with_other_processes_the_same_images_follow_in_the_same_order(
    stopped: Path, tmp_path: Path
) -> None:
    """Three processes, then two with another batch size, then one."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    first = recorded(folder / "ids")
    assert 2 <= len(first) <= 3  # a signal is answered a step later
    done = used(first)
    assert done == order(1)[: 6 * len(first)]
    # 4 images a step, until none are left that fill one; the last epoch begins.
    assert go_on(2, folder, "3") != 0
    second = recorded(folder / "ids")
    in_epoch_1 = (UNEVEN - len(done)) // 4
    assert used(second[:in_epoch_1]) == order(1)[len(done) :][: 4 * in_epoch_1]
    now = used(second[in_epoch_1:])
    assert now == order(2)[: len(now)]
    assert go_on(1, folder, "0", "--batch-size", "5") == 0
    third = recorded(folder / "ids")
    rest = used(third)
    if now:
        assert rest == order(2)[len(now) :][: len(rest)]
    else:
        in_epoch_1 = (UNEVEN - len(done) - len(used(second))) // 5 * 5
        begun = len(done) + len(used(second))
        assert rest[:in_epoch_1] == order(1)[begun:][:in_epoch_1]
        assert rest[in_epoch_1:] == order(2)[:20]
    print(f"N={len(first) + len(second) + len(third)} steps, seed={SEED}")
