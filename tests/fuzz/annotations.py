# SPDX-License-Identifier: Apache-2.0
"""Generated annotation and results files, most of them spoilt, against a checker of its own.

    python -m tests.fuzz.annotations --cases 100000 --seed 0
    python -m tests.fuzz.annotations --cases 1 --seed 0 --first 4711      # one case again

A valid file is drawn, with what may be odd in one, and up to five mutations are done to it: values
of other types, NaN, huge numbers, ids used twice or unknown, missing and repeated keys, edits of
single bytes. :mod:`tests.fuzz.annotation_oracle` says whether what has become of it may be
accepted. Every tenth file that may be is also scored, as pycocotools scores its repaired content.
"""

import argparse
import json
import random
import re
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from effdet.annotations import (
    AnnotationError,
    AnnotationTable,
    Faults,
    collect_annotations,
    collect_results,
    fit_boxes,
    refuse_repairs,
    scorable,
    stream,
)
from effdet.annotations.json_file import MalformedError, load_exactly
from effdet.annotations.results import Entries
from effdet.annotations.rows import NO_ID
from effdet.annotations.table import Sections, collect
from effdet.evaluation.coco import evaluate_results
from effdet.evaluation.files import GroundTruth, Results
from tests.fuzz import annotation_oracle as oracle
from tests.fuzz.annotation_files import RESULT_KEYS, Case, draw_case, draw_document

PLACED = re.compile(r"(\$|images|annotations|categories|\[\d+\]|line \d+ column \d+)")
SCORE_EVERY = 10
BARE_EVERY = 7  # read as for figures, which need no sizes and names


# --- what must come of it ---


class Fuzzer:
    """Runs cases and counts what comes of them.

    Attributes:
        counts: cases by outcome.
        failures: the first cases that must not be, with their numbers.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._file, self._seed = folder / "case.json", seed
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.longest = 0.0

    def run(self, number: int, *, results: bool) -> None:
        """Draw a case, read it, and compare."""
        case = draw_case(self._seed, number, results=results)
        self._file.write_bytes(case.content)
        stream.WINDOW = stream._PART = case.window
        stream._FIRST = case.window // 8
        start = time.perf_counter()
        try:
            self._run_results(number, case) if results else self._run_annotations(number, case)
        except Exception as error:
            self._fail(number, results, "crash", repr(error))
        self.longest = max(self.longest, time.perf_counter() - start)

    def _run_annotations(self, number: int, case: Case) -> None:
        with_images = number % BARE_EVERY != 0
        reason, expected = oracle.judge_annotations(case.content, with_images)
        table, faults = collect_annotations(self._file, with_images=with_images)
        if not self._agrees(number, False, reason, table is not None, faults):
            return
        exact = exact_table(case.content, with_images)
        if (exact is None) != (table is None):
            self._fail(number, False, "two ways disagree", f"fast {faults}")
        if table is None or exact is None or expected is None:
            return
        if table_values(table) != table_values(exact):
            self._fail(number, False, "two ways disagree", "tables")
        found = oracle_values(table, with_images)
        for key, value in found.items():
            if value != expected[key]:
                self._fail(number, False, "wrong table", f"{key}: {value} {expected[key]}")
        if len(table.mended) != expected["mended"]:
            self._fail(number, False, "wrong table", f"{table.mended} {expected['mended']}")
        if (refused := is_refused_strictly(table, with_images)) != expected["repaired"]:
            self._fail(number, False, "wrong strictness", f"{refused} {found}")
        self.counts["without images"] += not with_images
        self.counts["repaired" if expected["repaired"] else "clean"] += 1
        if number % SCORE_EVERY == 0:
            self._score(number, table, expected["content"], case.detections)

    def _run_results(self, number: int, case: Case) -> None:
        draw = random.Random(f"{self._seed} {number} True")
        document = draw_document(draw)
        ids = [[row["id"] for row in document[key]] for key in ("images", "categories")]
        reason, expected = oracle.judge_results(case.content, *ids)
        columns, faults, _ = collect_results(self._file, *ids)
        if not self._agrees(number, True, reason, not len(faults), faults) or expected is None:
            return
        rows = list(zip(*(columns[key].tolist() for key in RESULT_KEYS)))
        if rows != expected:
            self._fail(number, True, "wrong table", f"{rows} {expected}")
        if (exact := exact_entries(case.content)) != rows:
            self._fail(number, True, "two ways disagree", f"{exact}")

    def _agrees(
        self, number: int, results: bool, reason: str | None, accepted: bool, faults: Faults
    ) -> bool:
        """Whether checker and oracle accept or refuse alike, and what is refused has a place."""
        if accepted and reason is None:
            self.counts["accepted"] += 1
            return True
        if accepted:
            self._fail(number, results, "silently accepted", str(reason))
        elif reason is None:
            self._fail(number, results, "wrongly refused", str(faults))
        elif not all(PLACED.match(fault.place) for fault in faults.kept):
            self._fail(number, results, "no place", str(faults))
        elif not str(faults).isprintable():
            self._fail(number, results, "not printable", str(faults))
        else:
            self.counts["refused"] += 1
            where = "line" if faults.kept[0].place.startswith("line") else "path"
            self.counts[f"refused with {where}"] += 1
        return False

    def _score(
        self, number: int, table: AnnotationTable, content: Any, detections: list[dict[str, Any]]
    ) -> None:
        """Compare the figures with those of pycocotools on the repaired content."""
        # A changed id may have left some without their image or category.
        images, categories = ({row["id"] for row in content[k]} for k in ("images", "categories"))
        detections = [
            row
            for row in detections
            if row["image_id"] in images and row["category_id"] in categories
        ]
        expected = oracle.figures(content, detections)
        truth = GroundTruth.load(table)
        found = Results(
            image_ids=np.array([row["image_id"] for row in detections], np.int64),
            category_ids=np.array([row["category_id"] for row in detections], np.int64),
            boxes=np.array([row["bbox"] for row in detections], np.float64).reshape(-1, 4),
            scores=np.array([row["score"] for row in detections], np.float64),
        )
        for backend in ("pycocotools", "faster"):
            figures = evaluate_results(truth, Results.join([found]), backend).figures  # type: ignore[arg-type]
            values = [-1.0 if value is None else value for value in figures.values()]
            if not np.allclose(values, expected, rtol=0, atol=1e-12):
                self._fail(number, False, f"other figures ({backend})", f"{values} {expected}")
        self.counts["scored"] += 1

    def _fail(self, number: int, results: bool, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if len(self.failures) < 20:
            which = "results" if results else "annotations"
            self.failures.append(f"{which} {self._seed} {number}: {kind}: {text[:600]}")


def exact_table(content: bytes, with_images: bool) -> AnnotationTable | None:
    """What the exact reader alone makes of a file."""
    faults = Faults("exact")
    sections = Sections(faults, with_images)
    try:
        sections.read_value(load_exactly(content))
        stream.check_json(content, 0)
    except MalformedError:
        return None
    return collect(sections, faults)


def exact_entries(content: bytes) -> list[Any]:
    """The same for a results file that is right."""
    entries = Entries(Faults("exact"))
    entries.read_value(load_exactly(content))
    columns = entries.columns()
    return list(zip(*(columns[key].tolist() for key in RESULT_KEYS)))


def table_values(table: AnnotationTable) -> list[Any]:
    assert table.where is None  # only formats other than JSON say where a row stands
    values: list[Any] = []
    for name, value in vars(table).items():
        if name in ("name", "where", "written", "data_folder"):
            continue
        if isinstance(value, np.ndarray):
            values.append((str(value.dtype), value.tolist()))
        elif isinstance(value, dict):
            values.append({key: rows.tolist() for key, rows in value.items()})
        elif isinstance(value, Faults):
            values.append(sorted(str(fault) for fault in value.kept))
        else:
            values.append(list(value))
    return values


def oracle_values(table: AnnotationTable, with_images: bool) -> dict[str, Any]:
    """The table as the oracle writes it, and with images what becomes of its boxes."""
    names = table.file_names
    rows = [
        (
            int(table.image_ids[table.image_index[k]]),
            int(table.category_ids[table.category_index[k]]),
            table.boxes[k].tolist(),
            float(table.areas[k]),
            bool(table.crowd[k]),
        )
        for k in range(len(table.ids))
    ]
    values: dict[str, Any] = {
        "rows": rows,
        "ids": [None if i == NO_ID else i for i in table.ids.tolist()],
        "images": [
            (image_id, width, height, names[k])
            for k, (image_id, (height, width)) in enumerate(
                zip(table.image_ids.tolist(), table.sizes.tolist(), strict=True)
            )
        ],
        "categories": list(zip(table.category_ids.tolist(), table.category_names, strict=True)),
        "filled": {kind: rows.tolist() for kind, rows in table.filled.items()},
        "scorable": scorable(table).tolist(),
    }
    if with_images:
        fitted = fit_boxes(table)
        values["fitted"] = fitted.boxes.tolist()
        values["kept"] = fitted.keep.tolist()
        values["fits"] = {
            kind: np.flatnonzero(mask).tolist() for kind, mask in fitted.repaired.items()
        }
        counts = {kind: fitted.count(kind) for kind in fitted.repaired}
        assert counts == {kind: len(rows) for kind, rows in values["fits"].items()}
    return values


def is_refused_strictly(table: AnnotationTable, with_images: bool) -> bool:
    """Whether ``--strict-data`` refuses the file: for training, or else for figures."""
    try:
        boxes = fit_boxes(table).repaired if with_images else {"box-without-area": ~scorable(table)}
        refuse_repairs(table, boxes)
    except AnnotationError:
        return True
    return False


def fuzz(cases: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Run ``cases`` annotation files and a quarter as many results files.

    Returns:
        Counts by outcome, the first failures with their numbers, and what it took.
    """
    sizes, start = (stream.WINDOW, stream._PART, stream._FIRST), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = {name: Fuzzer(Path(folder), seed) for name in ("annotations", "results")}
        try:
            for number in range(first, first + cases):
                fuzzers["annotations"].run(number, results=False)
                if number % 4 == 0:
                    fuzzers["results"].run(number, results=True)
        finally:
            stream.WINDOW, stream._PART, stream._FIRST = sizes
    return {
        "cases": cases,
        "results_cases": (cases + 3) // 4,
        "seed": seed,
        "annotations": dict(sorted(fuzzers["annotations"].counts.items())),
        "results": dict(sorted(fuzzers["results"].counts.items())),
        "failures": fuzzers["annotations"].failures + fuzzers["results"].failures,
        "longest_case_seconds": round(max(f.longest for f in fuzzers.values()), 3),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Print the figures of a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(fuzz(arguments.cases, arguments.seed, arguments.first), indent=2))


if __name__ == "__main__":
    main()
