# SPDX-License-Identifier: Apache-2.0
"""Ids for the classes of formats that have only names for them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.annotations import Faults
from effdet.annotations.classes import plain_name
from effdet.annotations.rows import NO_ID
from effdet.errors import nearest, shown
from effdet.structures import MAX_NAME, ClassMap

Ids = NDArray[np.int64]


def is_name(name: object) -> bool:
    """Whether ``name`` can be that of a class."""
    return isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name == name.strip()


def ids_of(
    names: Sequence[str],
    class_map: ClassMap | None,
    first: int,
    place: Callable[[str], str],
    faults: Faults,
) -> Ids:
    """``[K]`` the id of each of ``names``.

    Args:
        names: the classes of a data set, in their order.
        class_map: the model's classes; None: ids count from ``first``.
        first: the first id.
        place: where a name stands.
        faults: collects names that the model does not have.
    """
    if class_map is None:
        return np.arange(first, first + len(names), dtype=np.int64)
    known = {i: name for i, name in zip(class_map.category_ids, class_map.names) if i is not None}
    by_name, by_plain = defaultdict(list), defaultdict(list)
    for category_id, name in known.items():
        by_name[name].append(category_id)
        by_plain[plain_name(name or "")].append(category_id)
    ids: list[int] = []
    for name in names:
        fit = by_name.get(name) or by_plain.get(plain_name(name)) or []
        if len(fit) != 1:
            expected = "the name of one class of the model"
            near = nearest(name, [other for other in known.values() if other])
            twice = f", which {len(fit)} of its classes have" if fit else near
            faults.add("unknown-class", place(name), expected, f"{shown(name)}{twice}")
        elif fit[0] in ids:
            other = names[ids.index(fit[0])]
            expected = f"a class of its own, not that of {shown(other)}"
            faults.add("unknown-class", place(name), expected, shown(name))
        ids.append(fit[0] if len(fit) == 1 else NO_ID)
    return np.array(ids, np.int64)


def names_for(
    here: Iterable[str], elsewhere: Iterable[str], class_map: ClassMap | None
) -> list[str]:
    """The classes of a split, sorted, of a format that has no list of them.

    Args:
        here: names in the split.
        elsewhere: names in the data set's other splits, with which ids are shared.
        class_map: the model's classes, which give the ids alone.
    """
    if class_map is None:
        return sorted({*here, *elsewhere})
    return sorted(here) or sorted({name for name in class_map.names if name is not None})
