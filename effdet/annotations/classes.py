# SPDX-License-Identifier: Apache-2.0
"""The categories of a file against the classes of a model."""

from collections.abc import Mapping

from effdet.annotations.faults import AnnotationError
from effdet.annotations.references import some
from effdet.errors import printable, shown
from effdet.structures import ClassMap

Renamed = tuple[int, str, str]
"""A category's id, its name in a file, and the name that the model has for the id."""


def check_classes(
    file: str, categories: Mapping[int, str], class_map: ClassMap
) -> tuple[Renamed, ...]:
    """Refuse categories that the model has no class for, or that mean something else there.

    Args:
        file: how messages call the file.
        categories: id -> name; empty, or the id as text, where the file gives none.
        class_map: the model's classes.

    Returns:
        The categories that are only named otherwise: by no name that the model knows.

    Raises:
        AnnotationError: where ids are unknown, have the name of another of the model's ids, or
            where not one name is that of the model.
    """
    index_of = class_map.index_of
    unknown = [
        f"{i} ({printable(name)})" for i, name in sorted(categories.items()) if i not in index_of
    ]
    if unknown:
        raise AnnotationError(
            f"{printable(file)}: categories: {len(unknown)} of {len(categories)} ids are not among "
            f"the model's ({some(index_of)}): {some(unknown)}; use the annotation file of the "
            "model's classes, or train a model on these"
        )
    names = {i: name for i, name in sorted(categories.items()) if name not in ("", str(i))}
    pairs = [(i, name, class_map.name(index_of[i])) for i, name in names.items()]
    known = {
        form: {form(name) for name in class_map.names if name} for form in (_close, plain_name)
    }
    moved, renamed = [], []
    for i, here, there in pairs:
        for form in (_close, plain_name):
            if form(here) == form(there):
                break
            if form(here) and form(here) in known[form]:
                moved.append((i, here, there))
                break
        else:
            renamed.append((i, here, there))
    if moved:
        places = [
            f"id {i} is {shown(here)} here and {shown(there)} there" for i, here, there in moved
        ]
        raise AnnotationError(
            f"{printable(file)}: categories: {len(moved)} of {len(categories)} ids have the name "
            f"of another id of the model: {some(places)}; the classes are those of the model in "
            "another order, and boxes would be of the wrong ones: give the categories the model's "
            "ids, or train a model on these"
        )
    if renamed and len(renamed) == len(categories):
        first, here, there = renamed[0]
        raise AnnotationError(
            f"{printable(file)}: categories: no category has the name that its id has in the "
            f"model: id {first} is {shown(here)} here and {shown(there)} there; the model was "
            "trained on another data set"
        )
    return tuple(renamed)


def _close(name: str) -> str:
    """A class name without case and blanks."""
    return "".join(name.lower().split())


def plain_name(name: str) -> str:
    """A class name without case, blanks and signs, in which data sets differ without meaning it."""
    return "".join(c for c in name.lower() if c.isalnum())
