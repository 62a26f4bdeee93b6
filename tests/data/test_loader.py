# SPDX-License-Identifier: Apache-2.0
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet.data.coco import CocoDataset
from effdet.data.loader import Loader, build_eval_loader, build_train_loader
from effdet.data.packing import collate
from effdet.data.sampler import Key
from effdet.data.samples import DetectionDataset
from effdet.data.sizes import ImageSizes
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


def ids(batch: Batch) -> list[int]:
    return [target.image_id for target in batch.targets]


# Samples.
def test_a_sample_is_a_pure_function_of_seed_epoch_and_index(coco: CocoDataset) -> None:
    def pixels(seed: int, epoch: int, index: int) -> Tensor:
        return DetectionDataset(coco, TRAIN, seed)[Key(epoch, index)][0]

    first = pixels(0, 0, 1)
    np.random.default_rng(1).random()
    torch.manual_seed(4)
    assert first.equal(pixels(0, 0, 1))
    assert not first.equal(pixels(1, 0, 1))
    assert not first.equal(pixels(0, 1, 1))


def test_images_of_one_epoch_are_augmented_independently(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, TRAIN)
    # All images are 50 pixels high and not wider, so equal draws would give equal scales.
    assert len({round(data[Key(0, k)][1].scale, 2) for k in range(11)}) > 8


def test_a_negative_seed_is_refused(coco: CocoDataset) -> None:
    with pytest.raises(UsageError, match="seed must be at least 0, got -1"):
        DetectionDataset(coco, TRAIN, seed=-1)


# Batches.
def test_a_batch_is_its_samples(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, EVAL)
    samples = [data[Key(0, k)] for k in (2, 0, 4)]
    packed = collate(samples)
    assert not isinstance(packed, DataError)
    batch = packed.unpack()
    assert len(batch) == 3
    assert batch.images.equal(torch.stack([sample[0] for sample in samples]))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for ours, sample in zip(batch.targets, samples, strict=True):
        assert_same(ours, sample[1])


def assert_same(ours: Target, target: Target) -> None:
    assert ours.boxes.equal(target.boxes)
    assert ours.labels.equal(target.labels)
    assert ours.crowd.equal(target.crowd)
    assert (ours.image_id, ours.scale, ours.size) == (target.image_id, target.scale, target.size)


def test_a_batch_without_any_box_has_empty_targets(coco: CocoDataset) -> None:
    data = DetectionDataset(coco, EVAL)
    packed = collate([data[Key(0, 0)], data[Key(0, 3)]])
    assert not isinstance(packed, DataError)
    assert [target.boxes.shape for target in packed.unpack().targets] == [(0, 4), (0, 4)]


def assert_same_batches(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.images.equal(other.images)
        for ours, theirs in zip(one.targets, other.targets, strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(coco: CocoDataset, num_workers: int) -> None:
    def run(num_workers: int) -> list[Batch]:
        loader = build_train_loader(
            coco,
            TRAIN,
            batch_size=2,
            accumulate=2,
            sizes=ImageSizes((64, 96), epochs=2, multi_scale=(0.7, 1.6)),
            num_workers=num_workers,
            seed=5,
            rank=0,
            world_size=1,
        )
        batches = []
        for epoch, images in ((1, 0), (2, 0), (2, 4)):
            loader.set_position(epoch, images)
            batches += list(loader)
        return batches

    alone, helped = run(0), run(num_workers)
    assert [len(batch) for batch in alone] == [2] * 10
    assert_same_batches(alone, helped)
    assert [ids(batch) for batch in alone[:4]] != [ids(batch) for batch in alone[4:8]]
    assert_same_batches(alone[6:8], alone[8:])
    assert len({batch.images.shape for batch in alone}) > 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pass_starts_at_its_position_after_one_left_early(
    coco: CocoDataset, num_workers: int
) -> None:
    loader = build_train_loader(coco, TRAIN, batch_size=2, num_workers=num_workers, seed=1)
    loader.set_position(1)
    whole = list(loader)
    loader.set_position(2)
    next(iter(loader))
    loader.set_position(1, 4)
    assert (len(loader), loader.rounds, loader.num_dropped) == (3, 3, 1)
    assert_same_batches(list(loader), whole[2:])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_starting_a_pass_draws_nothing_from_torch(coco: CocoDataset, num_workers: int) -> None:
    loader = build_train_loader(coco, TRAIN, batch_size=4, num_workers=num_workers)
    state = torch.get_rng_state()
    for epoch in (1, 2):
        loader.set_position(epoch)
        assert len(list(loader)) == 2
        assert torch.get_rng_state().equal(state)


def test_images_come_in_the_sizes_of_their_steps(coco: CocoDataset) -> None:
    sizes = ImageSizes((128, 192), epochs=4, stages=2)
    loader = build_train_loader(coco, TRAIN, batch_size=4, sizes=sizes)
    shapes = []
    for epoch in (1, 2, 3):
        loader.set_position(epoch)
        shapes += [tuple(batch.images.shape[2:]) for batch in loader]
    assert shapes == [(128, 192), (96, 160), (96, 160), (96, 160), (128, 192), (128, 192)]


def test_boxes_follow_the_size_of_the_step(coco: CocoDataset) -> None:
    plain = TrainTransform((64, 64), *PLAIN, jitter=(1.0, 1.0), flip=0.0)
    data = DetectionDataset(coco, plain)
    small, large = data[Key(1, 5, (64, 64))][1], data[Key(1, 5, (128, 128))][1]
    assert len(small.boxes) == 2
    # Sides are cut to whole pixels, so the larger one may have one more.
    assert torch.allclose(large.boxes, 2 * small.boxes, atol=1.0)


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
    assert [loader.rounds for loader in loaders] == [3, 3]


def test_a_rank_without_images_evaluates_nothing(coco: CocoDataset) -> None:
    loaders = [
        build_eval_loader(coco, EVAL, batch_size=2, rank=rank, world_size=13) for rank in range(13)
    ]
    assert [len(list(loader)) for loader in loaders] == [1] * 11 + [0] * 2
    assert {loader.rounds for loader in loaders} == {1}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_set_without_any_box_gives_batches_without_any_box(
    make: Callable[..., CocoDataset], num_workers: int
) -> None:
    images = [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 50} for k in range(1, 6)]
    empty = make({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    loader = build_train_loader(empty, TRAIN, batch_size=2, num_workers=num_workers)
    loader.set_position(1)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [2, 2]
    for batch in batches:
        assert [target.boxes.shape for target in batch.targets] == [(0, 4)] * 2
        assert [target.labels.shape for target in batch.targets] == [(0,)] * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_a_one_line_error_here(
    coco: CocoDataset, tmp_path: Path, num_workers: int
) -> None:
    (tmp_path / "train" / "5.png").write_bytes(b"broken")
    loader = build_eval_loader(coco, EVAL, batch_size=4, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    path = tmp_path / "train" / "5.png"
    assert str(caught.value).startswith(f"{path}: not an image that can be read here")


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
    assert data[Key(1, 4)][0].equal(DetectionDataset(coco, TRAIN, 3)[Key(1, 4)][0])


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
