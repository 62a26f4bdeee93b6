# SPDX-License-Identifier: Apache-2.0
"""Which outputs of a class head mean the same in two sets of classes."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from effdet.structures import ClassMap


def match_classes(have: ClassMap, want: ClassMap) -> list[int | None]:
    """For each index of ``want`` that of the same class in ``have``, None where there is none.

    Names decide, never the order or the ids: equal names first, then names that differ in case and
    white space alone, where there is one of them on each side. Among several classes of one name
    the one with the same category id is meant, and without it none. Slots without a class match
    nothing, but in two equal maps every index is its own.
    """
    if have == want:
        return list(range(len(want)))
    rows = [_same_name(have, want, index) for index in range(len(want))]
    loose_have = _by_loose_name(have, have.named)
    # What has an equal name in `have`, of which none could be told to be meant, is not loosened.
    left = [i for i in want.named if want.names[i] not in have.names]
    for name, indices in _by_loose_name(want, left).items():
        found = loose_have.get(name, [])
        if len(indices) == len(found) == 1 and found[0] not in rows:
            rows[indices[0]] = found[0]
    return rows


def take_rows(have: Tensor, fresh: Tensor, rows: Sequence[int | None], num_anchors: int) -> Tensor:
    """``fresh`` with the rows of the classes that ``have`` knows too.

    Args:
        have: ``[num_anchors * L, ...]``, of all ``L`` classes of the file.
        fresh: ``[num_anchors * K, ...]``, of the ``K`` classes that are wanted.
        rows: for each of the ``K`` its index among the ``L``, None to stay fresh.
        num_anchors: anchors of a location; the classes of one lie side by side.
    """
    result = fresh.clone().unflatten(0, (num_anchors, -1))
    pairs = [(new, old) for new, old in enumerate(rows) if old is not None]
    new, old = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    result[:, new] = have.unflatten(0, (num_anchors, -1))[:, old].to(result.dtype)
    return result.flatten(0, 1)


def _same_name(have: ClassMap, want: ClassMap, index: int) -> int | None:
    name = want.names[index]
    found = [i for i in have.named if have.names[i] == name]
    if len(found) > 1:
        found = [i for i in found if have.category_ids[i] == want.category_ids[index]]
    return found[0] if found else None


def _by_loose_name(class_map: ClassMap, indices: Iterable[int]) -> dict[str, list[int]]:
    """The classes of ``indices`` by their names without case and white space."""
    found: dict[str, list[int]] = {}
    for index in indices:
        name = "".join(class_map.name(index).split()).casefold()
        found.setdefault(name, []).append(index)
    return found
