# SPDX-License-Identifier: Apache-2.0
"""Class names that are probably another one, misspelt."""

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping

LIKE = 0.85
"""Likeness of two words, twice their common letters by all, from which one may be the other."""

SHORTEST, LONGEST = 5, 50
"""Letters of words that are compared: of shorter ones too many real pairs differ in one letter."""

MOST = 2000
"""Classes of a data set; the names of more are not compared."""

MOST_ALIKE = 200
"""Names with the same first letters; of more, each with each would take minutes."""

Words = tuple[str, ...]


def spellings(names: Mapping[int, str], boxes: Mapping[int, int]) -> dict[int, int]:
    """For each category whose name is nearly that of another: the one that was probably meant.

    Args:
        names: by category id.
        boxes: by category id; who has none is left out.

    Returns:
        Category id -> id of the one of nearly its name with the most boxes, at least as many.
    """
    used = {id_: _words(name) for id_, name in names.items() if boxes.get(id_) and name}
    if len(used) > MOST:
        return {}
    candidates: dict[Words, list[int]] = defaultdict(list)
    for id_, words in used.items():
        for key in _keys(words):
            candidates[key].append(id_)
    found = {}
    for id_, words in used.items():
        alike = [candidates[key] for key in _keys(words)]
        others = {other for ids in alike if len(ids) <= MOST_ALIKE for other in ids} - {id_}
        near = [o for o in others if boxes[o] >= boxes[id_] and _are_near(words, used[o])]
        if near:
            found[id_] = max(near, key=lambda other: (boxes[other], -other))
    return found


def _words(name: str) -> Words:
    """The words of a name without capitals, blanks and hyphens."""
    return tuple(re.split(r"[\s_-]+", name.casefold().strip(" _-\t\r\n")))


def _keys(words: Words) -> set[Words]:
    """Of which names that are nearly equal share one."""
    return {("".join(words),), tuple(word[:1] for word in words)}


def _are_near(first: Words, second: Words) -> bool:
    if "".join(first) == "".join(second):
        return True
    return len(first) == len(second) and all(map(_are_near_words, first, second))


def _are_near_words(first: str, second: str) -> bool:
    """Equal, or one with a slip; a first letter is seldom wrong and often tells a real difference.

    ``healthy`` is not ``unhealthy``, and ``speed30`` is not ``speed80``.
    """
    if first == second:
        return True
    if not (first.isalpha() and second.isalpha() and first[0] == second[0]):
        return False
    shorter, longer = sorted((len(first), len(second)))
    if shorter < SHORTEST or longer > LONGEST:
        return False
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio() >= LIKE
