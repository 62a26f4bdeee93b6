# SPDX-License-Identifier: Apache-2.0
import math

import torch
from torch.testing import assert_close

from effdet.boxes import box_area, box_ioa, box_iou, clip_boxes, decode_boxes, encode_boxes


def boxes_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([top_left, top_left + 1 + torch.rand(count, 2, generator=generator) * 50], 1)


def test_area_is_width_times_height() -> None:
    assert box_area(boxes_of((1, 2, 4, 8), (5, 5, 5, 9))).tolist() == [18, 0]


def test_iou_of_hand_worked_pairs() -> None:
    a = boxes_of((0, 0, 10, 10), (0, 0, 10, 10))
    b = boxes_of((0, 0, 10, 5), (5, 5, 15, 15), (20, 0, 30, 10), (0, 0, 10, 10))
    assert_close(box_iou(a, b), torch.tensor([[0.5, 25 / 175, 0, 1]]).expand(2, 4))


def test_touching_boxes_do_not_overlap() -> None:
    assert box_iou(boxes_of((0, 0, 5, 5)), boxes_of((5, 0, 9, 5))).item() == 0


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = boxes_of((3, 3, 3, 3))
    assert box_iou(point, point).item() == 0
    assert box_iou(point, boxes_of((0, 0, 9, 9))).item() == 0


def test_iou_is_symmetric_in_its_arguments() -> None:
    a, b = random_boxes(20, 1), random_boxes(30, 2)
    assert_close(box_iou(a, b), box_iou(b, a).T)


def test_iou_without_boxes_is_an_empty_matrix() -> None:
    assert box_iou(boxes_of(), random_boxes(3)).shape == (0, 3)
    assert box_iou(random_boxes(3), boxes_of()).shape == (3, 0)


def test_ioa_divides_by_the_area_of_the_first_box() -> None:
    small, large = boxes_of((0, 0, 4, 2)), boxes_of((2, 0, 10, 10))
    assert box_ioa(small, large).item() == 0.5
    assert_close(box_ioa(large, small), torch.tensor([[4 / 80]]))
    assert box_ioa(boxes_of((1, 1, 1, 1)), large).item() == 0


def test_clipping_keeps_boxes_inside_height_and_width() -> None:
    clipped = clip_boxes(boxes_of((-3, -4, 50, 60), (5, 6, 7, 8)), (20, 30))
    assert clipped.tolist() == [[0, 0, 30, 20], [5, 6, 7, 8]]


def test_decode_gives_the_reference_box() -> None:
    # The reference's anchor [0, 0, 32, 64] and deltas [.1, -.2, .3, .4] are in y, x order.
    box = decode_boxes(boxes_of((-0.2, 0.1, 0.4, 0.3)), boxes_of((0, 0, 64, 32)))
    assert_close(box, boxes_of((-28.538391, -2.3977413, 66.93839, 40.797745)))


def test_decode_undoes_encode() -> None:
    boxes, anchors = random_boxes(200, 3), random_boxes(200, 4)
    assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, rtol=1e-5, atol=1e-4)


def test_a_box_on_its_anchor_has_no_deltas() -> None:
    anchors = random_boxes(10)
    assert_close(encode_boxes(anchors, anchors), torch.zeros(10, 4))


def test_deltas_are_centre_offsets_in_anchor_sizes_and_log_ratios() -> None:
    deltas = encode_boxes(boxes_of((10, 0, 30, 10)), boxes_of((0, 0, 10, 20)))
    assert_close(deltas, torch.tensor([[1.5, -0.25, math.log(2), math.log(0.5)]]))


def test_encoding_a_box_without_area_is_finite() -> None:
    assert encode_boxes(boxes_of((5, 5, 5, 5)), boxes_of((0, 0, 8, 8))).isfinite().all()


def test_coding_broadcasts_over_the_batch() -> None:
    anchors = random_boxes(6)
    deltas = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(5)) * 0.3
    boxes = decode_boxes(deltas, anchors)
    assert_close(boxes[1], decode_boxes(deltas[1], anchors))
    assert_close(encode_boxes(boxes, anchors), deltas, rtol=1e-4, atol=1e-4)
