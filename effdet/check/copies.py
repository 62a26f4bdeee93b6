# SPDX-License-Identifier: Apache-2.0
"""Images that are in a data set more than once, within a split or in two."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from effdet.check.findings import Findings
from effdet.check.likeness import groups, near_pairs
from effdet.check.pictures import DecodedImages, stack
from effdet.check.reading import Split

Place = tuple[int, int]
"""Number of the split, position of the image in it."""


def check_copies(
    splits: Sequence[Split], pictures: Sequence[DecodedImages], findings: Findings
) -> None:
    """Look for images that are the same byte by byte, and for those that look alike."""
    exact = _exact(pictures)
    for group in exact:
        _tell(group, "exact", splits, findings)
    copies = {place for group in exact for place in group[1:]}
    for group in _near(pictures, copies):
        _tell(group, "near", splits, findings)


def _exact(pictures: Sequence[DecodedImages]) -> list[list[Place]]:
    by_digest: dict[bytes, list[Place]] = defaultdict(list)
    for number, found in enumerate(pictures):
        for row, picture in found.items():
            if picture.digest:
                by_digest[picture.digest].append((number, row))
    return [group for group in by_digest.values() if len(group) > 1]


def _near(pictures: Sequence[DecodedImages], copies: set[Place]) -> list[list[Place]]:
    """Groups of places whose pictures look alike; ``copies`` are left out."""
    stacks = [stack(found) for found in pictures]
    if not stacks:
        return []
    places = [(n, int(row)) for n, (rows, _, _) in enumerate(stacks) for row in rows]
    hashes = np.concatenate([found for _, found, _ in stacks])
    thumbnails = np.concatenate([found for _, _, found in stacks])
    use = np.array([place not in copies for place in places], bool)
    places = [place for place, used in zip(places, use.tolist(), strict=True) if used]
    pairs = near_pairs(hashes[use], thumbnails[use])
    by_root: dict[int, list[Place]] = defaultdict(list)
    for place, root in zip(places, groups(pairs, len(places)).tolist(), strict=True):
        by_root[root].append(place)
    return [group for group in by_root.values() if len(group) > 1]


def _tell(group: list[Place], how: str, splits: Sequence[Split], findings: Findings) -> None:
    """A finding for each of ``group`` but the first: leakage where that is of another split.

    Records of the very same file are told of elsewhere.
    """
    first, other = splits[group[0][0]], group[0][1]
    for number, row in group[1:]:
        split = splits[number]
        if split.path(row).resolve() == first.path(other).resolve():
            continue
        id_ = f"images.duplicate_{how}" if number == group[0][0] else f"splits.leakage_{how}"
        word = "the same as" if how == "exact" else "looks like"
        text = f"{word} {first.table.file_names[other]} of {first.name}"
        example = replace(split.image_example(row, text), other=first.path(other))
        findings.add(id_, split.name, [example], 1)
