# SPDX-License-Identifier: Apache-2.0
"""Two processes do what one does."""

import json
from pathlib import Path

import pytest
import torch

from effdet import distributed
from effdet.errors import UsageError
from tests.runs import program, tiny_coco, torchrun


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
