# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.levels import (
    as_one_level,
    flatten_levels,
    num_anchors_of,
    split_levels,
    values_per_anchor,
)

SHAPES = ((2, 3, 4), (2, 1, 2))  # 28 anchors


def test_rows_stand_in_the_order_of_level_row_column_anchor() -> None:
    level = torch.arange(2 * 3 * 2 * 2).reshape(1, 6, 2, 2)  # two anchors of three values
    flat = flatten_levels([level, level + 100], 3)
    assert flat.shape == (1, 16, 3)
    assert flat[0, 0].tolist() == [0, 4, 8]  # place (0, 0): channels of the first anchor
    assert flat[0, 1].tolist() == [12, 16, 20]  # the second anchor of the same place
    assert flat[0, 2].tolist() == [1, 5, 9]  # place (0, 1)
    assert flat[0, 8].tolist() == [100, 104, 108]


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_splitting_is_the_inverse(batch: int) -> None:
    flat = torch.randn(batch, 28, 5)
    levels = split_levels(flat, SHAPES)
    assert [tuple(x.shape) for x in levels] == [(batch, 10, 3, 4), (batch, 10, 1, 2)]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in levels)
    assert torch.equal(flatten_levels(levels, 5), flat)
    assert num_anchors_of(levels, 5) == 28
    assert values_per_anchor(levels, 28) == 5


def test_one_level_is_a_view() -> None:
    flat = torch.randn(2, 6, 3)
    (level,) = as_one_level(flat)
    assert level.data_ptr() == flat.data_ptr()
    assert torch.equal(flatten_levels([level], 3), flat)
