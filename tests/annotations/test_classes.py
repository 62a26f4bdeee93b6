# SPDX-License-Identifier: Apache-2.0
import pytest

from effdet.annotations import AnnotationError, check_classes
from effdet.structures import ClassMap

MODEL = ClassMap(names=("cat", None, "Hot dog", "C", "C++"), category_ids=(1, None, 3, 4, 5))
SAME = {1: "cat", 3: "Hot dog", 4: "C", 5: "C++"}


@pytest.mark.parametrize(
    "change", [{}, {1: "CAT "}, {3: "hotdog"}, {3: "hot_dog"}, {1: ""}, {1: "1"}, {5: "c ++"}]
)
def test_names_may_differ_in_case_blanks_and_signs(change: dict[int, str]) -> None:
    assert check_classes("a.json", SAME | change, MODEL) == ()


def test_a_name_that_the_model_does_not_know_is_told() -> None:
    found = check_classes("a.json", SAME | {1: "kitten", 3: "--"}, MODEL)
    assert found == ((1, "kitten", "cat"), (3, "--", "Hot dog"))


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({3: "cat"}, "1 of 4 ids .*: id 3 is 'cat' here and 'Hot dog' there;"),
        ({1: "HOTDOG"}, "1 of 4 ids .*: id 1 is 'HOTDOG' here and 'cat' there;"),
        ({1: "hot-dog"}, "1 of 4 ids .*: id 1 is 'hot-dog' here and 'cat' there;"),
        (
            {1: "Hot dog", 3: "cat"},
            "2 of 4 ids have the name of another id of the model: "
            "id 1 is 'Hot dog' here and 'cat' there, id 3 is 'cat' here and 'Hot dog' there;",
        ),
        ({4: "C++", 5: "C"}, "2 of 4 ids .*: id 4 is 'C\\+\\+' here and 'C' there, id 5 is"),
    ],
)
def test_the_name_of_another_class_is_refused(change: dict[int, str], places: str) -> None:
    with pytest.raises(AnnotationError, match=f"^a.json: categories: {places}"):
        check_classes("a.json", SAME | change, MODEL)


def test_of_many_the_first_are_named() -> None:
    names = tuple(f"class {k}" for k in range(90))
    model = ClassMap(names=names, category_ids=tuple(range(90)))
    with pytest.raises(AnnotationError) as caught:
        check_classes("a.json", {k: names[k - 1] for k in range(90)}, model)
    assert "90 of 90 ids have" in str(caught.value)
    assert "id 7 is 'class 6' here and 'class 7' there, ...;" in str(caught.value)
