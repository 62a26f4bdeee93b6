# SPDX-License-Identifier: Apache-2.0
import functools
import math

import pytest
import torch
from torch import nn

from effdet.errors import DeviceMemoryError, UsageError
from effdet.training.batch_size import (
    explain_out_of_memory,
    explained_memory_errors,
    find_batch_size,
    is_out_of_memory,
    largest_batch,
    largest_that_fits,
    missing_state_bytes,
    unchanged,
)
from effdet.training.optimizer import build_optimizer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Memory:
    """A step that fits up to ``limit`` images; counts how often it is tried."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tried: list[int] = []

    def step(self, size: int) -> None:
        self.tried.append(size)
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def fits(self, size: int) -> bool:
        self.tried.append(size)
        return size <= self.limit


@pytest.mark.parametrize("first", [1, 3, 40])
@pytest.mark.parametrize("limit", [1, 2, 7, 32, 33])
def test_the_largest_batch_is_found_in_few_tries(first: int, limit: int) -> None:
    for room in range(40):
        memory = Memory(room)
        assert largest_batch(memory.fits, first=first, limit=limit) == min(room, limit)
        assert len(memory.tried) == len(set(memory.tried)) <= 2 * math.log2(limit) + 2
        assert max(memory.tried, default=0) <= limit


@pytest.mark.parametrize(
    ("room", "limit", "found"),
    [(0, 64, 0), (1, 64, 1), (7, 64, 7), (8, 64, 8), (15, 64, 8), (16, 64, 16), (100, 64, 64),
     (150, 1000, 144), (100, 5, 5), (100, 12, 8)],
)  # fmt: skip
def test_above_8_images_it_is_a_multiple_of_8(room: int, limit: int, found: int) -> None:
    memory = Memory(room)
    assert largest_that_fits(memory.step, 1, limit) == found
    assert len(memory.tried) == len(set(memory.tried)) <= 14
    assert all(size % 8 == 0 for size in memory.tried if size > 8)


@pytest.mark.parametrize(("room", "found"), [(1, 0), (2, 2), (3, 3), (9, 8), (100, 96)])
def test_what_is_too_small_for_batch_norm_is_not_tried(room: int, found: int) -> None:
    memory = Memory(room)
    assert largest_that_fits(memory.step, 2, 4096) == found
    assert 1 not in memory.tried


def test_other_errors_of_the_step_come_through() -> None:
    def step(size: int) -> None:
        raise RuntimeError(f"broken at {size}")

    with pytest.raises(RuntimeError, match="broken at 1"):
        largest_that_fits(step, 1, 8)


def test_a_cpu_is_refused() -> None:
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0)
    with pytest.raises(UsageError, match="--batch-size auto needs a GPU; give a number"):
        find_batch_size(
            Memory(8).step, model=model, optimizer=optimizer, device=CPU, smallest=1, limit=8
        )


def test_trying_leaves_the_model_and_the_generator_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    def fail() -> None:
        with unchanged(model, CPU):
            model.train()(torch.randn(2, 3, 4, 4)).sum().backward()
            assert not torch.equal(model[1].running_mean, before["1.running_mean"])
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fail()
    assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_adamw_still_needs_two_tensors_a_weight_before_its_first_step() -> None:
    model = nn.Linear(10, 10)  # 110 parameters
    values = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    assert missing_state_bytes(build_optimizer(model, kind="sgd", **values)) == 0
    optimizer = build_optimizer(model, kind="adamw", **values)
    assert missing_state_bytes(optimizer) == 2 * 4 * 110
    assert not optimizer.state
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    assert missing_state_bytes(optimizer) == 0


@pytest.mark.gpu
def test_the_batch_of_a_gpu_fits_and_twice_as_much_does_not() -> None:
    device = torch.device("cuda", 0)
    model = nn.Conv2d(3, 64, 3, padding=1).to(device)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0)

    def step(size: int) -> None:
        model(torch.randn(size, 3, 1024, 1024, device=device)).square().sum().backward()

    found = find_batch_size(
        step, model=model, optimizer=optimizer, device=device, smallest=1, limit=4096
    )
    assert found >= 8
    assert found % 8 == 0
    step(found)
    model.zero_grad()
    with pytest.raises(torch.OutOfMemoryError):
        step(2 * found)


def explained(error: BaseException, **changes: object) -> str:
    values = {
        "batch_size": 16, "accumulate": 1, "image_size": (512, 640), "amp": False, "device": CPU,
    }  # fmt: skip
    explanation = explain_out_of_memory(error, **(values | changes))
    assert isinstance(explanation, DeviceMemoryError)
    assert explanation.exit_code == 8
    assert "\n" not in str(explanation)
    return str(explanation)


def test_an_allocation_that_fails_on_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert explained(caught.value) == (
        "training on 16 images of 512 x 640 pixels at once does not fit into the machine's memory; "
        "give --batch-size 8 --accumulate 2 (the same global batch) or a smaller --image-size"
    )


def test_other_errors_are_not_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_on_a_gpu_its_memory_is_named_and_amp_and_auto_are_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    text = explained(error, device=torch.device("cuda", 1), accumulate=3, batch_size=15)
    assert "does not fit into the 80.0 GiB of cuda:1" in text
    assert text.endswith(
        "give --batch-size 5 --accumulate 9 (the same global batch), --batch-size auto, --amp or "
        "a smaller --image-size"
    )
    assert "--amp" not in explained(error, device=CUDA, amp=True)
    assert explained(error, device=CUDA, amp=True, batch_size=1).endswith(
        "give a smaller --image-size"
    )


def test_only_errors_of_memory_are_explained() -> None:
    around = functools.partial(
        explained_memory_errors,
        batch_size=2, accumulate=1, image_size=(64, 64), amp=True, device=CPU,
    )  # fmt: skip
    with pytest.raises(DeviceMemoryError, match="training on 2 images") as caught, around():
        raise MemoryError
    assert isinstance(caught.value.__cause__, MemoryError)
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as passed, around():
        raise other
    assert passed.value is other
