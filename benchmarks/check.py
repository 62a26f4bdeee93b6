# SPDX-License-Identifier: Apache-2.0
"""How long does ``effdet check`` take, for annotations alone and with images?

Annotations: all 5,000 image records and 36,781 boxes of COCO's val2017 as COCO, Pascal VOC and
YOLO, with black images of the recorded sizes, which are not decoded (YOLO's sizes are read from
their headers). Images: real ones, all decoded, hashed and compared. Each
is checked several times in this process; the best is told, without imports.

    python benchmarks/check.py                         # writes benchmarks/results/check.json

Data is looked for in EFFDET_TEST_DATA (default: ../shared/data).
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import write_result
from PIL import Image

from effdet.check import CheckReport, check_data
from effdet.config import model_config
from effdet.cpus import usable_cpus
from effdet.data.convert import convert_data
from effdet.settings import MAX_PIXELS
from effdet.settings.convert_data import WrittenFormat

ROOT = Path(__file__).parents[1]
FORMS: tuple[WrittenFormat, ...] = ("voc", "yolo")
SETS = ("coco_mini", "bccd")


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    data = Path(os.environ.get("EFFDET_TEST_DATA") or ROOT.parent / "shared" / "data")
    figures: dict[str, Any] = {"cores": usable_cpus(), "rounds": rounds}
    with tempfile.TemporaryDirectory() as root:
        coco = Path(root) / "coco"
        make_val2017(data / "coco_val2017_boxes" / "instances_val2017.json.gz", coco)
        figures["val2017_annotations"] = measure(coco, rounds, images=False)
        for form in FORMS:
            convert_data(coco, Path(root) / form, form, images="link")
            measured = measure(Path(root) / form, rounds, images=False)
            figures[f"val2017_annotations_{form}"] = measured
    for name in SETS:
        figures[name] = measure(data / name, rounds, images=True)
    print(json.dumps(figures, indent=2))
    write_result("check", figures)


def make_val2017(records: Path, folder: Path) -> None:
    """The annotations of val2017, and a black picture of its size for each image."""
    content = gzip.decompress(records.read_bytes())
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val2017.json").write_bytes(content)
    (folder / "val2017").mkdir()
    for image in json.loads(content)["images"]:
        black = Image.new("RGB", (image["width"], image["height"]))
        black.save(folder / "val2017" / image["file_name"], quality=1)


def measure(folder: Path, rounds: int, *, images: bool) -> dict[str, Any]:
    """Seconds of the fastest of some checks, and what was found."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        report = check(folder, images)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    number = sum(split.images for split in report.splits)
    return {
        "images": number,
        "boxes": sum(split.boxes for split in report.splits),
        "seconds": round(min(walls), 2),
        "cpu_seconds": round(min(cpus), 2),
        "images_per_second": round(number / min(walls)),
        "findings": {finding.kind.id: finding.count for finding in report.findings},
    }


def check(folder: Path, images: bool) -> CheckReport:
    """A check with the default settings."""
    config = model_config("efficientdet_d0")
    return check_data(str(folder), config, images=images, max_pixels=MAX_PIXELS)


if __name__ == "__main__":
    main()
