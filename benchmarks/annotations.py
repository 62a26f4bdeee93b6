# SPDX-License-Identifier: Apache-2.0
"""How long does it take to read and check the annotations of COCO's size, and how much memory?

Makes two files of 118,287 images and 860,001 annotations, one with boxes alone and one with
polygons like COCO's, and reads each in processes of their own: as the table that everything here
is made of (``check``), as a data set to train on (``CocoDataset``, in an image folder with all
files named), and by the peers, pycocotools' ``COCO()`` and Python's ``json``, which check nothing.
Seconds are those of reading, without imports; memory is the peak of the whole process, torch
included.

    python benchmarks/annotations.py                   # writes benchmarks/results/annotations.json
    python benchmarks/annotations.py --peer-cases 2000

The file also tells which part of spoilt files the peers take without an error: those of
tests/fuzz/annotation_files.py that its checker refuses, each loaded and scored with fixed
detections.
"""

import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests

NUM_IMAGES, NUM_ANNOTATIONS, NUM_CATEGORIES = 118_287, 860_001, 80
POINTS = 25
"""Points of a polygon; COCO's have as many on average."""

WIDTH, HEIGHT = 640, 480
FILES = ("boxes", "polygons")
ROUNDS = 3


def main() -> None:
    """Measure, or, called with ``--subject``, be the process that is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-cases", type=int, default=2000)
    parser.add_argument("--subject", choices=tuple(SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        print(json.dumps(SUBJECTS[arguments.subject](arguments.file)))
        return
    from measuring import write_result  # not above: the peers' processes are to have no torch

    figures: dict[str, Any] = {"images": NUM_IMAGES, "annotations": NUM_ANNOTATIONS, "files": {}}
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.json"
            write_file(file, polygons=name == "polygons")
            if not (images := Path(folder) / "images").exists():
                make_images(images)
            figures["files"][name] = {"megabytes": round(file.stat().st_size / 1e6)} | {
                subject: best(subject, file) for subject in SUBJECTS
            }
            print(json.dumps({name: figures["files"][name]}, indent=2))
    figures["silently_accepted"] = silently_accepted(arguments.peer_cases)
    print(json.dumps(figures["silently_accepted"], indent=2))
    write_result("annotations", figures)


def write_file(file: Path, *, polygons: bool) -> None:
    """Write an annotation file of COCO's size and form."""
    draw = random.Random(0)
    categories = [{"supercategory": "x", "id": k + 1, "name": f"c{k}"} for k in range(80)]
    with file.open("w") as text:
        text.write('{"info": {}, "licenses": [], "images": [')
        text.write(", ".join(json.dumps(image(k)) for k in range(NUM_IMAGES)))
        text.write('], "annotations": [')
        for k in range(NUM_ANNOTATIONS):
            text.write((", " if k else "") + json.dumps(annotation(draw, k, polygons)))
        text.write('], "categories": ' + json.dumps(categories) + "}")


def image(number: int) -> dict[str, Any]:
    """A row of ``images`` with all that COCO's have."""
    name = f"{number:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-14 16:28:13",
        "flickr_url": "http://farm4.staticflickr.com/3153/2970773875_164f0c0b83_z.jpg",
        "id": number,
    }


def annotation(draw: random.Random, number: int, polygons: bool) -> dict[str, Any]:
    """A row of ``annotations``; one in a hundred is a crowd with a run-length mask."""
    x, y = round(draw.uniform(0, WIDTH - 132), 2), round(draw.uniform(0, HEIGHT - 172), 2)
    width, height = round(draw.uniform(1, 130), 2), round(draw.uniform(1, 170), 2)
    crowd = number % 100 == 0
    mask: Any = {"counts": [7] * 40, "size": [HEIGHT, WIDTH]} if crowd else []
    if not crowd:
        mask = [[round(draw.uniform(0, WIDTH), 2) for _ in range(2 * POINTS)]] if polygons else []
    return ({"segmentation": mask} if polygons else {}) | {
        "area": round(0.7 * width * height, 5),
        "iscrowd": int(crowd),
        "image_id": draw.randrange(NUM_IMAGES),
        "bbox": [x, y, width, height],
        "category_id": draw.randrange(1, NUM_CATEGORIES + 1),
        "id": number + 1,
    }


def make_images(folder: Path) -> None:
    """Empty files, for CocoDataset to find; none is opened."""
    folder.mkdir()
    for number in range(NUM_IMAGES):
        (folder / f"{number:012d}.jpg").touch()


def best(subject: str, file: Path) -> dict[str, float]:
    """The fastest of some processes."""
    words = [sys.executable, __file__, "--subject", subject, "--file", str(file)]
    runs = [
        json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        for _ in range(ROUNDS if subject in ("check", "CocoDataset") else 1)
    ]
    figures: dict[str, float] = min(runs, key=lambda run: run["seconds"])
    return figures


def measured(read: Callable[[], Any]) -> dict[str, float]:
    """Seconds of wall clock and CPU, annotations a second, and the process's peak memory."""
    from effdet.processes import peak_memory

    wall, cpu = time.perf_counter(), time.process_time()
    content = read()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory() or 0
    del content
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "annotations_per_second": round(NUM_ANNOTATIONS / wall),
        "peak_memory_mb": round(peak / 2**20),
    }


def check(file: Path) -> dict[str, float]:
    """The table that everything is made of."""
    from effdet.annotations import read_annotations

    return measured(lambda: read_annotations(file))


def data_set(file: Path) -> dict[str, float]:
    """A data set to train on, its image files looked up."""
    from effdet.data import CocoDataset

    return measured(lambda: CocoDataset(file, file.parent / "images"))


def pycocotools(file: Path) -> dict[str, float]:
    """The index of pycocotools."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return measured(lambda: COCO(str(file)))


def standard_json(file: Path) -> dict[str, float]:
    """The content as Python objects."""
    return measured(lambda: json.loads(file.read_bytes()))


SUBJECTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "check": check,
    "CocoDataset": data_set,
    "pycocotools": pycocotools,
    "json": standard_json,
}


def silently_accepted(cases: int, seed: int = 0) -> dict[str, Any]:
    """The part of files with a violation that a peer scores without an error.

    Args:
        cases: files, spoilt or not, as tests/fuzz/annotation_files.py draws them.
        seed: theirs.
    """
    from effdet.annotations import collect_annotations
    from tests.fuzz.annotation_files import draw_case
    from tests.fuzz.annotation_oracle import judge_annotations

    accepted = {"effdet": 0} | {name: 0 for name, _ in peers()}
    spoilt = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.json"
        for number in range(cases):
            case = draw_case(seed, number)
            if judge_annotations(case.content)[0] is None:
                continue
            spoilt += 1
            file.write_bytes(case.content)
            accepted["effdet"] += collect_annotations(file)[0] is not None
            for name, (coco, evaluation) in peers():
                accepted[name] += scores(coco, evaluation, file, case.detections)
    rates = {name: round(count / spoilt, 4) for name, count in accepted.items()}
    return {"cases": cases, "seed": seed, "spoilt": spoilt} | rates


def peers() -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The libraries that score annotation files."""
    from faster_coco_eval import COCO, COCOeval_faster
    from pycocotools import coco, cocoeval

    yield "pycocotools", (coco.COCO, cocoeval.COCOeval)
    yield "faster-coco-eval", (COCO, COCOeval_faster)


def scores(coco: Any, evaluation: Any, file: Path, detections: list[dict[str, Any]]) -> bool:
    """Whether a library loads and scores ``file`` without an error."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            truth = coco(str(file))
            run = evaluation(truth, truth.loadRes([dict(row) for row in detections]), "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        except Exception:
            return False
    return True


if __name__ == "__main__":
    main()
