# SPDX-License-Identifier: Apache-2.0
import math
import re

import pytest
import torch
from torch.testing import assert_close

from effdet.anchors import build_anchors, feature_sizes, num_anchors
from effdet.config import MODELS, model_config
from tests import golden

COUNTS = {
    "d0": 49104, "d1": 76725, "d2": 110484, "d3": 150381, "d4": 196416, "d5": 306900,
    "d6": 306900, "d7": 441936, "d7x": 442260, "lite0": 19206, "lite1": 27621, "lite2": 37629,
    "lite3": 49104, "lite3x": 76725, "lite4": 76725,
}  # fmt: skip
D0_128 = model_config("efficientdet_d0", image_size=(128, 128))


def sides(anchors: torch.Tensor) -> torch.Tensor:
    return anchors[:, 2:] - anchors[:, :2]


def centres(anchors: torch.Tensor) -> torch.Tensor:
    return (anchors[:, 2:] + anchors[:, :2]) / 2


def test_anchors_are_those_of_the_reference() -> None:
    (line,) = golden.lines("anchors128")
    count, numbers = line.split(")", 1)
    expected = torch.tensor([float(n) for n in re.findall(r"-?[\d.]*\d[\d.]*", numbers)])
    expected = expected.reshape(5, 4)[:, [1, 0, 3, 2]]  # ymin, xmin, ymax, xmax there
    anchors = build_anchors(D0_128)
    assert count == f"({len(anchors)}, 4"
    assert_close(anchors[[0, 1, 2, 9, -1]], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_model_has_the_references_number_of_anchors(name: str, count: int) -> None:
    config = MODELS[f"efficientdet_{name}"]
    assert num_anchors(config) == count
    assert build_anchors(config).shape == (count, 4)


def test_feature_sizes_are_halved_upwards_level_by_level() -> None:
    assert feature_sizes((320, 512), 3, 7) == [(40, 64), (20, 32), (10, 16), (5, 8), (3, 4)]
    assert feature_sizes((65, 127), 1, 3) == [(33, 64), (17, 32), (9, 16)]
    assert feature_sizes((1536, 1536), 3, 8)[-1] == (6, 6)


def test_strides_are_fractional_where_sizes_do_not_divide() -> None:
    # Lite0 at 320 has 3 x 3 locations on P7: stride 106.67, not 128.
    last = build_anchors(MODELS["efficientdet_lite0"])[-9 * 9 :]
    stride = 320 / 3
    x = [stride / 2, stride * 1.5, stride * 2.5]
    assert_close(centres(last)[::9][:3], torch.tensor([[v, stride / 2] for v in x]))
    assert_close(sides(last)[0], torch.full((2,), 3 * stride))


def test_octaves_come_before_aspect_ratios_and_a_wide_box_second() -> None:
    base = 4 * 8 * torch.tensor([1, 2 ** (1 / 3), 2 ** (2 / 3)]).repeat_interleave(3)
    shape = torch.tensor([1, math.sqrt(2), math.sqrt(0.5)]).repeat(3)
    expected = torch.stack([base * shape, base / shape], 1)  # width, height
    assert_close(sides(build_anchors(D0_128)[:9]), expected)


def test_locations_go_along_rows_first_and_levels_from_fine_to_coarse() -> None:
    config = model_config("efficientdet_d0", image_size=(64, 128))
    anchors = build_anchors(config)[::9]
    assert centres(anchors[:16]).tolist() == [[4 + 8 * x, 4] for x in range(16)]
    assert centres(anchors[16:17]).tolist() == [[4, 12]]
    assert centres(anchors[8 * 16 : 8 * 16 + 1]).tolist() == [[8, 8]]  # first of P4
    assert centres(anchors[-1:]).tolist() == [[64, 32]]  # P7 is 1 x 1


def test_a_rectangular_size_has_a_stride_for_each_axis() -> None:
    config = model_config("efficientdet_d0", image_size=(64, 100))
    assert feature_sizes((64, 100), 3, 3) == [(8, 13)]
    first = build_anchors(config)[:1]
    assert_close(centres(first), torch.tensor([[100 / 13 / 2, 4.0]]))
    assert_close(sides(first), torch.tensor([[4 * 100 / 13, 32.0]]))


@pytest.mark.parametrize("size", [(65, 97), (127, 64), (511, 513)])
def test_odd_sizes_keep_every_centre_inside_the_image(size: tuple[int, int]) -> None:
    config = model_config("efficientdet_d0", image_size=size)
    anchors = build_anchors(config)
    assert len(anchors) == num_anchors(config)
    limit = torch.tensor([size[1], size[0]])
    assert ((centres(anchors) > 0) & (centres(anchors) < limit)).all()


def test_another_image_size_than_the_models_own_can_be_given() -> None:
    wide = model_config("efficientdet_d0", image_size=(64, 128))
    assert torch.equal(build_anchors(D0_128, (64, 128)), build_anchors(wide))


def test_anchors_are_float32_on_the_asked_device() -> None:
    anchors = build_anchors(D0_128, device="meta")
    assert (anchors.device.type, anchors.dtype) == ("meta", torch.float32)
