# SPDX-License-Identifier: Apache-2.0
from itertools import chain

import numpy as np
import pytest
import torch

from effdet.data.sampler import EvalSampler, TrainSampler
from effdet.errors import UsageError


def images(sampler: TrainSampler | EvalSampler) -> list[int]:
    return [key.image for batch in sampler for key in batch]


def steps(
    size: int,
    batch_size: int,
    world_size: int,
    accumulate: int,
    *,
    epoch: int = 1,
    start: int = 0,
    seed: int = 7,
) -> list[list[int]]:
    """The images of each step over all ranks and batches, in the order they share them."""
    ranks = []
    for rank in range(world_size):
        sampler = TrainSampler(size, batch_size, rank, world_size, accumulate=accumulate, seed=seed)
        sampler.set_position(epoch, start)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) == batch_size for batch in batches)
        ranks.append(batches)
    assert len({len(batches) for batches in ranks}) == 1, "all ranks have as many batches"
    rounds = [chain(*parts) for parts in zip(*ranks, strict=True)]
    keys = [list(chain(*rounds[k : k + accumulate])) for k in range(0, len(rounds), accumulate)]
    return [[key.image for key in step] for step in keys]


def order(size: int, epoch: int = 1, seed: int = 7) -> list[int]:
    return list(chain(*steps(size, 1, 1, 1, epoch=epoch, seed=seed)))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_step_has_its_piece_of_the_order_whoever_shares_it(
    batch_size: int, world_size: int, accumulate: int
) -> None:
    piece = batch_size * world_size * accumulate
    for size in sorted({piece, piece + 1, 2 * piece - 1, max(50, piece)}):
        expected = order(size)
        assert sorted(expected) == list(range(size))
        found = steps(size, batch_size, world_size, accumulate)
        assert found == [expected[k * piece : (k + 1) * piece] for k in range(size // piece)]


@pytest.mark.parametrize("others", [(1, 8, 1), (2, 4, 1), (4, 1, 2), (3, 2, 1), (1, 5, 3)])
def test_a_run_goes_on_in_the_same_order_with_other_processes(others: tuple[int, int, int]) -> None:
    world_size, batch_size, accumulate = others
    piece, first = world_size * batch_size * accumulate, 8
    for size in (first + piece, 50, 53):
        for done in range(0, size - piece, first):
            before = list(chain(*steps(size, 4, 2, 1)))[:done]
            after = list(chain(*steps(size, batch_size, world_size, accumulate, start=done)))
            assert before + after == order(size)[: done + len(after)]
            assert size - done - len(after) == (size - done) % piece


def test_a_position_at_the_end_leaves_nothing_to_do() -> None:
    assert steps(50, 4, 2, 1, start=48) == steps(50, 4, 2, 1, start=50) == []


def test_the_next_pass_starts_where_the_last_position_was_set() -> None:
    sampler = TrainSampler(50, 8)
    sampler.set_position(3, 16)
    rest = images(sampler)
    assert (len(rest), len(sampler), sampler.num_dropped) == (32, 4, 2)
    assert images(sampler) == rest
    sampler.set_position(3)
    assert images(sampler)[16:] == rest
    started = iter(sampler)
    sampler.set_position(4)
    assert next(started)[0].epoch == 3, "a pass that began keeps its epoch"


def test_an_impossible_position_is_refused() -> None:
    sampler = TrainSampler(50, 8)
    for wrong in (-1, 51):
        with pytest.raises(UsageError) as caught:
            sampler.set_position(1, wrong)
        assert str(caught.value) == (
            f"an epoch of the training set has 50 images and cannot start after {wrong}; "
            "is it the data set that the run began with?"
        )


def test_an_epoch_has_each_image_once_but_the_dropped_ones() -> None:
    sampler = TrainSampler(50, 8)
    assert sampler.num_dropped == 2
    assert len(list(sampler)) == len(sampler) == 6
    assert len(set(images(sampler))) == 48


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    torch.manual_seed(0)
    np.random.default_rng(0)
    first = order(50, epoch=0, seed=1)
    torch.manual_seed(1)
    assert first == order(50, epoch=0, seed=1)
    assert len({tuple(order(50, epoch, seed)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_keys_carry_the_epoch() -> None:
    sampler = TrainSampler(4, 2)
    sampler.set_position(7)
    assert {key.epoch for batch in sampler for key in batch} == {7}


def test_all_images_of_a_step_have_the_size_of_its_first_position() -> None:
    def size(epoch: int, position: int) -> tuple[int, int]:
        return 1000 * epoch + position, 32

    seen = set()
    for rank in range(2):
        sampler = TrainSampler(50, 3, rank, 2, accumulate=2, sizes=size)
        sampler.set_position(2, 12)
        for k, batch in enumerate(sampler):
            seen.add((k // 2, *{key.size for key in batch}))
    assert seen == {(0, (2012, 32)), (1, (2024, 32)), (2, (2036, 32))}


def test_without_sizes_the_transform_decides() -> None:
    assert {key.size for batch in TrainSampler(9, 2) for key in batch} == {None}


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        TrainSampler(11, 6, rank=1, world_size=2)
    assert str(caught.value) == (
        "a batch of 6 images on each of 2 processes is 12 images, but the training set has only "
        "11; use a batch size of at most 5 or fewer processes"
    )
    with pytest.raises(UsageError) as caught:
        TrainSampler(11, 2, world_size=4, accumulate=3)
    assert str(caught.value) == (
        "a batch of 2 images on each of 4 processes in 3 passes is 24 images, but the training set "
        "has only 11; use fewer processes or a smaller --accumulate"
    )
    with pytest.raises(UsageError, match="only 0; use a larger set"):
        TrainSampler(0, 1)
    assert len(TrainSampler(12, 6, world_size=2)) == 1
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        TrainSampler(11, 0)
    with pytest.raises(UsageError, match="accumulate must be at least 1, got 0"):
        TrainSampler(11, 1, accumulate=0)


@pytest.mark.parametrize(
    ("size", "world_size"), [(11, 1), (11, 2), (11, 4), (12, 4), (13, 4), (2, 4), (0, 2)]
)
def test_evaluation_has_each_image_once_over_all_ranks(size: int, world_size: int) -> None:
    ranks = [EvalSampler(size, 3, rank, world_size) for rank in range(world_size)]
    assert sorted(image for rank in ranks for image in images(rank)) == list(range(size))
    assert all(len(rank) == len(list(rank)) for rank in ranks)
    assert {rank.rounds for rank in ranks} == {max(len(rank) for rank in ranks)}
    assert all(rank.rounds - len(rank) in (0, 1) for rank in ranks)


def test_evaluation_keeps_the_order_and_the_last_short_batch() -> None:
    batches = [[key.image for key in batch] for batch in EvalSampler(7, 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(UsageError, match="batch_size must be at least 1, got -1"):
        EvalSampler(7, -1)
