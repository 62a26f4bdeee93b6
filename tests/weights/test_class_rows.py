# SPDX-License-Identifier: Apache-2.0
import torch

from effdet.structures import ClassMap
from effdet.weights.class_rows import match_classes, take_rows


def classes(*names: str | None, ids: tuple[int | None, ...] | None = None) -> ClassMap:
    numbered = tuple(None if name is None else i for i, name in enumerate(names))
    return ClassMap(names, ids or numbered)


def test_names_decide_whatever_the_order_and_the_ids() -> None:
    have = classes("cat", "dog", "bird", ids=(1, 2, 3))
    assert match_classes(have, classes("bird", "cat", "dog", ids=(1, 2, 3))) == [2, 0, 1]
    assert match_classes(have, classes("cat", "dog", "bird", ids=(3, 1, 2))) == [0, 1, 2]
    assert match_classes(have, classes("fish", "dog", ids=(1, 7))) == [None, 1]
    assert match_classes(have, classes("fish", "ant", "cow", ids=(1, 2, 3))) == [None] * 3


def test_unnamed_slots_are_no_class_but_equal_maps_are_equal() -> None:
    have = classes(None, "cat", None, "dog")
    assert match_classes(have, classes("dog", "cat")) == [3, 1]
    assert match_classes(have, classes(None, "dog")) == [None, 3]
    assert match_classes(have, have) == [0, 1, 2, 3]


def test_case_and_white_space_do_not_matter_where_one_is_meant() -> None:
    have = classes("Traffic light", "DOG", "cat", "Cat ")
    want = classes("traffic  Light", " dog", "cat", "CAT")
    # "cat" is equal to one; "CAT" might be either of two.
    assert match_classes(have, want) == [0, 1, 2, None]
    assert match_classes(classes("dog"), classes("Dog", "DOG")) == [None, None]
    assert match_classes(classes("dog"), classes("dog", "DOG")) == [0, None]


def test_of_classes_with_one_name_the_id_tells_which() -> None:
    have = classes("cat", "cat", "dog", ids=(4, 7, 9))
    assert match_classes(have, classes("dog", "cat", ids=(1, 7))) == [2, 1]
    assert match_classes(have, classes("dog", "cat", ids=(1, 2))) == [2, None]
    assert match_classes(have, classes("cat", "dog", "cat", ids=(7, 8, 4))) == [1, 2, 0]
    # One class of the file may be two of the data.
    assert match_classes(classes("cat"), classes("cat", "dog", "cat")) == [0, None, 0]


def test_rows_are_taken_within_each_anchor() -> None:
    have = torch.tensor([0.0, 1, 2, 10, 11, 12])  # two anchors, three classes
    fresh = torch.tensor([-1.0, -2, -3, -4])  # two anchors, two classes
    assert take_rows(have, fresh, [2, None], 2).tolist() == [2, -2, 12, -4]
    assert take_rows(have, fresh, [1, 0], 2).tolist() == [1, 0, 11, 10]
    assert take_rows(have, fresh, [None, None], 2).tolist() == fresh.tolist()
    assert fresh.tolist() == [-1, -2, -3, -4]
