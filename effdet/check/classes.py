# SPDX-License-Identifier: Apache-2.0
"""Categories: their ids and names, what splits share, and how many boxes each has."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from effdet.annotations import AnnotationError, check_classes
from effdet.check.findings import Example, Findings
from effdet.check.reading import Split, training_of, validation_of
from effdet.check.spelling import spellings
from effdet.counts import counted
from effdet.errors import one_line, shown

BACKGROUND = {"background", "__background__", "_background_", "bg", "back_ground"}
FEW = 10
"""Boxes of a class, below which nothing can be learnt of it."""

IMBALANCE = 100
"""Times the boxes of the rarest class."""

MISSPELT = 20
"""Times the boxes of a class that has nearly the name of another, from which it is told."""

Counts = dict[int, int]
"""Boxes by category id."""


def check_categories(splits: Sequence[Split], findings: Findings) -> None:
    """Look at the categories of all splits; ``train`` is what the others are measured by."""
    told: list[dict[int, str]] = []
    total = _total(splits)
    for split in splits:
        names = categories(split)
        if names not in told:  # what all splits share is told once
            told.append(names)
            _check_ids(split, names, findings)
            _check_names(split, names, total, findings)
    _check_agreement(splits, findings)
    _check_counts(splits, findings)


def categories(split: Split) -> dict[int, str]:
    """Names by category id."""
    table = split.table
    return dict(zip(table.category_ids.tolist(), table.category_names, strict=True))


def counts(split: Split) -> Counts:
    """Boxes of each category, crowd regions left out."""
    table = split.table
    found = np.bincount(table.category_index[~table.crowd], minlength=len(table.category_ids))
    return dict(zip(table.category_ids.tolist(), found.tolist(), strict=True))


def _total(splits: Sequence[Split]) -> Counter[int]:
    """Boxes of each category in all splits."""
    total: Counter[int] = Counter()
    for split in splits:
        total.update(counts(split))
    return total


def _check_ids(split: Split, names: dict[int, str], findings: Findings) -> None:
    low, high = min(names), max(names)
    if low == 0 and split.has_ids:  # YOLO counts from 0
        example = Example(split=split.name, text=f"id 0 is {shown(names[0])}")
        findings.add("ids.from_zero", split.name, [example], 1)
    gaps = high - low + 1 - len(names)
    text = f"{len(names)} categories with ids from {low} to {high}"
    findings.add("ids.gaps", split.name, [Example(split=split.name, text=text)], gaps)


def _check_names(split: Split, names: dict[int, str], total: Counts, findings: Findings) -> None:
    """Names that mean no class, or the same as another.

    A category without boxes is no danger to another one of its name: exporters write such.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for id_, name in names.items():
        plain = "".join(name.casefold().split())
        if plain:
            alike[plain].append(id_)
        if plain in BACKGROUND:
            findings.add("classes.background", split.name, [_example(split, names, id_)], 1)
    for ids in alike.values():
        used = Counter(names[id_] for id_ in ids if total[id_])
        twice = sum(used.values()) - len(used)
        text = ", ".join(f"id {id_} is {shown(names[id_])}" for id_ in ids[:8])
        example = Example(split=split.name, text=text)
        if split.files.format != "yolo":  # where reading data.yaml tells it
            findings.add("classes.name_twice", split.name, [example], twice)
        findings.add("classes.same_name", split.name, [example], len(ids) - 1 - twice)


def _example(split: Split, names: dict[int, str], id_: int, text: str = "") -> Example:
    start = f"{shown(names[id_])} (id {id_})"
    return Example(split=split.name, text=start + (f": {text}" if text else ""))


def _check_agreement(splits: Sequence[Split], findings: Findings) -> None:
    """The categories of every split against those of training."""
    train = training_of(splits)
    if train is None:
        return
    for split in splits:
        names = categories(split)
        try:
            renamed = check_classes(split.table.name, names, train.table.class_map())
        except AnnotationError as error:
            example = Example(split=split.name, text=one_line(error))
            findings.add("splits.classes_differ", split.name, [example], 1)
            continue
        examples = (
            Example(split=split.name, text=f"id {i} is {shown(here)} here and {shown(there)} there")
            for i, here, there in renamed
        )
        findings.add("splits.classes_renamed", split.name, examples, len(renamed))


def _check_counts(splits: Sequence[Split], findings: Findings) -> None:
    """Classes without boxes, with few, with many more than others."""
    if not splits:
        return
    base = training_of(splits) or splits[0]
    names, in_base = categories(base), counts(base)
    total = _total(splits)
    _add_classes(findings, "classes.no_instances", base, names, {
        id_: "" for id_ in names if not total[id_]
    })  # fmt: skip
    _add_classes(findings, "classes.few_instances", base, names, {
        id_: counted(count, "box", "boxes") for id_, count in in_base.items() if 0 < count < FEW
    })  # fmt: skip
    used = {id_: count for id_, count in in_base.items() if count}
    if used and max(used.values()) > IMBALANCE * min(used.values()):
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        text = (
            f"{shown(names[most])} has {used[most]:,} boxes, {shown(names[least])} {used[least]:,}"
        )
        example = Example(split=base.name, text=text)
        findings.add("classes.imbalance", base.name, [example], 1)
    _check_spelling(splits, total, findings)


def _check_spelling(splits: Sequence[Split], total: Counts, findings: Findings) -> None:
    """Classes of one split only, and rare ones whose name is nearly that of a frequent one."""
    every = {id_: name for split in reversed(splits) for id_, name in categories(split).items()}
    meant = spellings(every, total)
    hints = {id_: f"; did you mean {shown(every[other])}?" for id_, other in meant.items()}
    told = _check_shared(splits, hints, findings)
    for split in splits:
        used = counts(split)
        found = {
            id_: f"{counted(total[id_], 'box', 'boxes')}, the other {total[other]:,}{hints[id_]}"
            for id_, other in meant.items()
            if id_ not in told and used.get(id_) and total[other] >= MISSPELT * total[id_]
        }
        _add_classes(findings, "classes.near_name", split, every, found)
        told |= set(found)


def _check_shared(
    splits: Sequence[Split], hints: Mapping[int, str], findings: Findings
) -> set[int]:
    """Classes that only one of training and validation has boxes of.

    Args:
        splits: of the data set.
        hints: id of a category -> what else to say of it.
        findings: where they are added.

    Returns:
        The ids of these classes.
    """
    train = training_of(splits)
    val = validation_of(splits)
    if train is None or val is None:
        return set()
    told: set[int] = set()
    for id_, split, other in (
        ("classes.only_in_train", train, val), ("classes.only_in_val", val, train),
    ):  # fmt: skip
        there = counts(other)
        found = {
            category: f"{counted(count, 'box', 'boxes')}, none in {other.name}"
            + hints.get(category, "")
            for category, count in counts(split).items()
            if count and not there.get(category)
        }
        _add_classes(findings, id_, split, categories(split), found)
        told |= set(found)
    return told


def _add_classes(
    findings: Findings, id_: str, split: Split, names: dict[int, str], found: dict[int, str]
) -> None:
    examples = (_example(split, names, category, text) for category, text in found.items())
    findings.add(id_, split.name, examples, len(found))
