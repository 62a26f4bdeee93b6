# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from effdet.check.likeness import (
    DISTANCE,
    bit_count,
    candidates,
    groups,
    look_alike,
    near_pairs,
    perceptual_hash,
)


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def test_bits_are_counted() -> None:
    assert bit_count(np.array([0, 1, 2**64 - 1, 0b1011], np.uint64)).tolist() == [0, 1, 64, 3]


@pytest.mark.parametrize("seed", range(5))
def test_hashes_that_differ_in_few_bits_are_always_found(seed: int) -> None:
    generator = np.random.default_rng(seed)
    hashes = [int(value) for value in generator.integers(0, 2**63, 300)]
    bits = generator.choice(64, DISTANCE, replace=False).tolist()
    hashes[200] = flipped(hashes[10], bits)
    hashes[201] = flipped(hashes[11], [*bits, *(set(range(64)) - set(bits))][: DISTANCE + 1])
    pairs = candidates(np.array(hashes, np.uint64)).tolist()
    assert [10, 200] in pairs
    assert [11, 201] not in pairs


def test_very_many_equal_hashes_cost_no_square_of_them() -> None:
    hashes = np.zeros(20_000, np.uint64)
    pairs = candidates(hashes)
    assert len(pairs) < 4 * len(hashes)
    assert (groups(pairs, len(hashes)) == 0).all()  # and all are connected


def test_no_hashes_have_no_pairs() -> None:
    none = np.zeros((0, 16, 16, 3), np.uint8)
    assert near_pairs(np.zeros(0, np.uint64), none).shape == (0, 2)
    one = np.zeros((1, 16, 16, 3), np.uint8)
    assert near_pairs(np.zeros(1, np.uint64), one).shape == (0, 2)


def test_a_hash_stays_where_brightness_and_contrast_change() -> None:
    gray = np.random.default_rng(0).uniform(40, 200, (32, 32))
    assert perceptual_hash(gray) == perceptual_hash(0.8 * gray + 20)
    assert 0 <= perceptual_hash(gray) < 2**64
    other = np.random.default_rng(1).uniform(40, 200, (32, 32))
    assert bin(perceptual_hash(gray) ^ perceptual_hash(other)).count("1") > DISTANCE


def test_thumbnails_are_alike_but_for_brightness_and_noise() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(30, 200, (16, 16, 3))
    noisy = (first + 10 + generator.integers(-3, 4, first.shape)).astype(np.uint8)
    other = generator.integers(30, 200, first.shape).astype(np.uint8)
    red = first.astype(np.uint8)
    swapped = np.ascontiguousarray(red[..., ::-1])
    left = np.stack([red] * 3)
    assert look_alike(left, np.stack([noisy, other, swapped])).tolist() == [True, False, False]


def test_groups_are_connected_parts() -> None:
    pairs = np.array([[0, 3], [3, 5], [1, 2], [6, 5]])
    assert groups(pairs, 8).tolist() == [0, 1, 1, 0, 4, 0, 0, 7]
