# SPDX-License-Identifier: Apache-2.0
"""What do test-time augmentation and tiles gain on a data set, and what do they cost?

    python benchmarks/inference.py --weights runs/mine/best.pt --data DATA
    python benchmarks/inference.py --weights runs/mine/best.pt --data DATA --tiles 320 640

Every image is looked at in each way before the next one is: plainly, mirrored too, at several
sizes, both (which is --tta), in tiles, and in tiles with --tta. AP with the post-processing of
published figures (merging looks or tiles suppresses once more, which is hard), and images a second
from decoded pixels to detections, as a ratio to plain. Writes results/inference.json.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measuring import write_result
from tqdm import tqdm

from effdet.data import CocoDataset, locate_split, read_split
from effdet.evaluation import CocoEvaluator, GroundTruth
from effdet.inference import Detector, load
from effdet.inference.search import Search, View
from effdet.settings import PostprocessConfig

FIGURES = ("AP", "AP50", "APs", "APm", "APl")


def main() -> None:
    """Look in every way, score, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--tiles", type=int, nargs="*", help="sides in pixels (default: the longer input side)"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = load(arguments.weights, device=arguments.device, postprocess=PostprocessConfig())
    tiles = arguments.tiles or [max(detector.config.image_size)]
    files = locate_split(arguments.data, arguments.split)
    table = read_split(files, detector.class_map)
    dataset = CocoDataset(table, files.images, detector.class_map)
    searches = ways(detector, tiles, arguments.batch_size)
    scorers = {
        name: CocoEvaluator(GroundTruth.load(table), detector.class_map) for name in searches
    }
    seconds = measure(dataset, searches, scorers)
    rows = [row(name, scorers[name], seconds, len(dataset)) for name in searches]
    print(*rows, sep="\n")
    write_result(
        "inference",
        {
            "data": f"{Path(arguments.data).name}, {arguments.split}",
            "images": len(dataset),
            "model": detector.config.name,
            "image_size": list(detector.config.image_size),
            "device": str(detector.device),
            "ways": rows,
        },
    )


def ways(detector: Detector, tiles: Sequence[int], batch_size: int) -> dict[str, Search]:
    """The searches, the plain one first."""

    def look(keep: Callable[[View], bool] = lambda view: True, **options: Any) -> Search:
        search = detector.build_search(batch_size=batch_size, **options)
        return dataclasses.replace(search, views=[view for view in search.views if keep(view)])

    size = detector.config.image_size
    found = {
        "plain": look(),
        "mirrored": look(lambda view: view.size == size, tta=True),
        "three sizes": look(lambda view: not view.flip, tta=True),
        "--tta": look(tta=True),
    }
    for tile in tiles:
        found[f"--tile {tile}"] = look(tile=tile)
        found[f"--tile {tile} --tta"] = look(tile=tile, tta=True)
    return found


def measure(
    dataset: CocoDataset, searches: Mapping[str, Search], scorers: Mapping[str, CocoEvaluator]
) -> dict[str, float]:
    """Seconds that each way took for all images; ``scorers`` take what it found."""
    seconds = dict.fromkeys(searches, 0.0)
    for search in searches.values():
        search([dataset.load(0)[0]])  # what happens only once
    for index in tqdm(range(len(dataset)), "looking"):
        image, target = dataset.load(index)
        for name, search in searches.items():
            start = time.perf_counter()
            (found,) = search([image])  # on the CPU: nothing is left running
            seconds[name] += time.perf_counter() - start
            scorers[name].update(target.image_id, found)
    return seconds


def row(
    name: str, scorer: CocoEvaluator, seconds: Mapping[str, float], images: int
) -> dict[str, Any]:
    """The figures of one way."""
    figures = scorer.evaluate().figures
    values = {key: figures[key] for key in FIGURES}
    return {
        "way": name,
        **{key: None if value is None else round(value, 4) for key, value in values.items()},
        "images_per_second": round(images / seconds[name], 2),
        "speed_to_plain": round(seconds["plain"] / seconds[name], 3),
    }


if __name__ == "__main__":
    main()
