# SPDX-License-Identifier: Apache-2.0
import os
import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet.data.coco import CocoDataset
from effdet.data.loader import (
    DetectionDataset,
    EvalSampler,
    Loader,
    TrainSampler,
    build_eval_loader,
    build_train_loader,
    collate,
)
from effdet.data.transforms import EvalTransform, TrainTransform
from effdet.errors import DataError, UsageError
from effdet.structures import Batch, Target
from tests.data.conftest import annotation

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
EVAL = EvalTransform((64, 64), *PLAIN)
TRAIN = TrainTransform((64, 64), *PLAIN)


@pytest.fixture
def coco(make: Callable[..., CocoDataset]) -> CocoDataset:
    """Eleven images with ids 100 to 110; image k has k % 3 boxes."""
    images = [
        {"id": 100 + k, "file_name": f"{k}.png", "width": 40 + k, "height": 50} for k in range(11)
    ]
    boxes = [annotation(100 + k, 1, [4 * n, 2, 9, 20 + k]) for k in range(11) for n in range(k % 3)]
    return make({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]})


def indices(sampler: TrainSampler | EvalSampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


def ids(batch: Batch) -> list[int]:
    return [target.image_id for target in batch.targets]


# Samplers.
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_same_global_batches(world_size: int) -> None:
    alone = list(TrainSampler(50, 6, seed=3))
    ranks = [TrainSampler(50, 6 // world_size, r, world_size, seed=3) for r in range(world_size)]
    together = [[*chain(*parts)] for parts in zip(*ranks, strict=True)]
    assert together == alone
    assert {len(sampler) for sampler in ranks} == {8}


def test_an_epoch_has_each_image_once_but_the_dropped_ones() -> None:
    sampler = TrainSampler(50, 8)
    assert sampler.num_dropped == 2
    assert len(list(sampler)) == len(sampler) == 6
    assert len(set(indices(sampler))) == 48


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainSampler(50, 5, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    torch.manual_seed(0)
    first = order(1, 0)
    torch.manual_seed(1)
    assert first == order(1, 0)
    assert sorted(first) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_keys_carry_the_epoch() -> None:
    sampler = TrainSampler(4, 2)
    sampler.set_epoch(7)
    assert {epoch for batch in sampler for epoch, _ in batch} == {7}


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        TrainSampler(11, 6, rank=1, world_size=2)
    assert str(caught.value) == (
        "a batch of 6 images on each of 2 processes is 12 images, but the training set has only "
        "11; use a batch size of at most 5 or fewer processes"
    )
    assert len(TrainSampler(12, 6, world_size=2)) == 1
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        TrainSampler(11, 0)


@pytest.mark.parametrize(("size", "world_size"), [(11, 1), (11, 2), (11, 4), (2, 4), (0, 2)])
def test_evaluation_has_each_image_once_over_all_ranks(size: int, world_size: int) -> None:
    ranks = [EvalSampler(size, 3, rank, world_size) for rank in range(world_size)]
    assert sorted(index for rank in ranks for index in indices(rank)) == list(range(size))
    assert all(len(rank) == len(list(rank)) for rank in ranks)


def test_evaluation_keeps_the_order_and_the_last_short_batch() -> None:
    batches = [[index for _, index in batch] for batch in EvalSampler(7, 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(UsageError, match="batch_size must be at least 1, got -1"):
        EvalSampler(7, -1)


# Samples.
def test_a_sample_is_a_pure_function_of_seed_epoch_and_index(coco: CocoDataset) -> None:
    def pixels(seed: int, epoch: int, index: int) -> Tensor:
        return DetectionDataset(coco, TRAIN, seed)[epoch, index][0]

    first = pixels(0, 0, 1)
    np.random.default_rng(1).random()
    torch.manual_seed(4)
    assert first.equal(pixels(0, 0, 1))
    assert not first.equal(pixels(1, 0, 1))
    assert not first.equal(pixels(0, 1, 1))


def test_images_of_one_epoch_are_augmented_independently(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, TRAIN)
    # All images are 50 pixels high and not wider, so equal draws would give equal scales.
    assert len({round(data[0, k][1].scale, 2) for k in range(11)}) > 8


def test_a_negative_seed_is_refused(coco: CocoDataset) -> None:
    with pytest.raises(UsageError, match="seed must be at least 0, got -1"):
        DetectionDataset(coco, TRAIN, seed=-1)


# Batches.
def test_a_batch_is_its_samples(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, EVAL)
    samples = [data[0, k] for k in (2, 0, 4)]
    packed = collate(samples)
    assert not isinstance(packed, DataError)
    batch = packed.unpack()
    assert len(batch) == 3
    assert batch.images.equal(torch.stack([image for image, _ in samples]))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for ours, (_, target) in zip(batch.targets, samples, strict=True):
        assert_same(ours, target)


def assert_same(ours: Target, target: Target) -> None:
    assert ours.boxes.equal(target.boxes)
    assert ours.labels.equal(target.labels)
    assert ours.crowd.equal(target.crowd)
    assert (ours.image_id, ours.scale, ours.size) == (target.image_id, target.scale, target.size)


def test_a_batch_without_any_box_has_empty_targets(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, EVAL)
    packed = collate([data[0, 0], data[0, 3]])
    assert not isinstance(packed, DataError)
    assert [target.boxes.shape for target in packed.unpack().targets] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(coco: CocoDataset, num_workers: int) -> None:
    def run(num_workers: int) -> list[Batch]:
        loader = build_train_loader(
            coco, TRAIN, batch_size=4, num_workers=num_workers, seed=5, rank=0, world_size=1
        )
        batches = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            batches += list(loader)
        return batches

    alone, helped = run(0), run(num_workers)
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert one.images.equal(other.images)
        for ours, theirs in zip(one.targets, other.targets, strict=True):
            assert_same(ours, theirs)
    assert [ids(batch) for batch in alone[:2]] != [ids(batch) for batch in alone[2:]]


def test_train_loader_says_what_it_leaves_out(coco: CocoDataset) -> None:
    loader = build_train_loader(coco, TRAIN, batch_size=4)
    assert (len(loader), loader.num_dropped) == (2, 3)
    with pytest.raises(UsageError, match="12 images, but the training set has only 11"):
        build_train_loader(coco, TRAIN, batch_size=12)


def test_eval_loaders_of_all_ranks_have_each_image_once(coco: CocoDataset) -> None:
    loaders = [
        build_eval_loader(coco, EVAL, batch_size=2, rank=rank, world_size=2) for rank in range(2)
    ]
    seen = [image_id for loader in loaders for batch in loader for image_id in ids(batch)]
    assert sorted(seen) == list(range(100, 111))
    assert [loader.num_dropped for loader in loaders] == [0, 0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_a_one_line_error_here(
    coco: CocoDataset, tmp_path: Path, num_workers: int
) -> None:
    (tmp_path / "train" / "5.png").write_bytes(b"broken")
    loader = build_eval_loader(coco, EVAL, batch_size=4, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    path = tmp_path / "train" / "5.png"
    assert str(caught.value) == f"{path}: not an image in a format that Pillow can read"


def test_any_other_error_is_not_hidden(coco: CocoDataset) -> None:
    loader = build_eval_loader(coco, _fail, batch_size=4)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="our own mistake"):
        list(loader)


def test_workers_live_through_all_epochs(coco: CocoDataset) -> None:
    loader = build_eval_loader(coco, _process_id, batch_size=11, num_workers=1)
    first, second = (next(iter(loader)).images[0, 0, 0, 0].item() for _ in range(2))
    assert first == second


def _process_id(
    image: Tensor, target: Target, generator: np.random.Generator
) -> tuple[Tensor, Target]:
    return torch.full((3, 1, 1), float(os.getpid())), target


def test_a_pass_left_early_does_not_disturb_the_next(coco: CocoDataset) -> None:
    loader = build_eval_loader(coco, EVAL, batch_size=3, num_workers=1)
    for batch in loader:
        assert ids(batch) == [100, 101, 102]
        break
    assert [image_id for batch in loader for image_id in ids(batch)] == list(range(100, 111))


def _fail(image: Tensor, target: Target, generator: np.random.Generator) -> None:
    raise ZeroDivisionError("our own mistake")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_are_made_with_one_thread(coco: CocoDataset, num_workers: int) -> None:
    threads = torch.get_num_threads()
    loader = build_eval_loader(coco, _thread_count, batch_size=11, num_workers=num_workers)
    (batch,) = loader
    assert batch.images.eq(1).all()
    assert torch.get_num_threads() == threads


def _thread_count(
    image: Tensor, target: Target, generator: np.random.Generator
) -> tuple[Tensor, Target]:
    return torch.full((3, 2, 2), float(torch.get_num_threads())), target


def test_a_loader_travels_to_other_processes(coco: CocoDataset) -> None:
    """Where processes are not forked, the data set is sent to the workers."""
    data = pickle.loads(pickle.dumps(DetectionDataset(coco, TRAIN, 3)))
    assert data[1, 4][0].equal(DetectionDataset(coco, TRAIN, 3)[1, 4][0])


def test_a_batch_costs_few_file_descriptors(coco: CocoDataset) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    loader = build_eval_loader(coco, EVAL, batch_size=11, num_workers=1)
    iterator = iter(loader)
    before = len(list(Path("/proc/self/fd").iterdir()))
    batch = next(iterator)
    assert len(batch) == 11
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 12


def test_page_locking_is_for_gpus_only(coco: CocoDataset) -> None:
    def pinned(device: str) -> bool:
        return build_eval_loader(coco, EVAL, batch_size=2, device=device).pin_memory

    assert pinned("cuda:1")
    assert not pinned("cpu")


def test_a_negative_number_of_workers_is_refused(coco: CocoDataset) -> None:
    with pytest.raises(UsageError, match="workers must be at least 0, got -1"):
        build_eval_loader(coco, EVAL, batch_size=2, num_workers=-1)


@pytest.mark.gpu
def test_batches_for_a_gpu_are_page_locked(coco: CocoDataset) -> None:
    loader: Loader = build_eval_loader(coco, EVAL, batch_size=4, num_workers=1, device="cuda")
    batch = next(iter(loader))
    assert batch.images.is_pinned()
    assert batch.to("cuda").targets[1].boxes.is_cuda
