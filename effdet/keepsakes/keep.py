# SPDX-License-Identifier: Apache-2.0
"""What a run keeps in its folder, under ``report/``, to be looked at later.

``labels.json``: what the boxes are like. ``batch-1.jpg`` and ``batch-2.jpg``: the first batches
that were trained on. ``best.json``: the validation with the highest AP, which names its detections
(``detections-0012.json``, COCO's results format) and their ground truth (``truth.json``, COCO's
annotation format), so that a report needs the data folder for pictures alone.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet.config import ModelConfig
from effdet.data import CocoDataset
from effdet.errors import EffdetError, one_line
from effdet.evaluation import GroundTruth, Results, write_results
from effdet.files import remove_leftovers, replace_text, write_atomically
from effdet.files.regular import read_regular
from effdet.keepsakes.batches import draw_batch
from effdet.keepsakes.labels import label_statistics
from effdet.run_files import MAX_BYTES
from effdet.structures import Batch, ClassMap

FOLDER = "report"
LABELS, BEST_VALIDATION, TRUTH = "labels.json", "best.json", "truth.json"
NUM_BATCHES = 2
MOST_DETECTIONS = 2_000_000
"""More are not kept: 300 MB, and half a minute to write them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Where a set of detections comes from.

    Attributes:
        epoch: after which they were made, counted from 1.
        figures: what they are scored with; ``weights`` names whose they are.
        dataset: the images.
        truth: the boxes that were to be found.
    """

    epoch: int
    figures: Mapping[str, Any]
    dataset: CocoDataset
    truth: GroundTruth


class Keepsakes:
    """Writes them. That one cannot be written is warned of, once, and never ends a run.

    No random generator is drawn from, and nothing waits for the device.

    Args:
        run_folder: the run's; None (on all processes but the main one) keeps nothing.
        warn: takes a line for the person who watches.
    """

    def __init__(self, run_folder: Path | None, warn: Callable[[str], None]) -> None:
        self._folder = None if run_folder is None else run_folder / FOLDER
        self._warn = warn
        self._warned = False
        self._results: Results | None = None
        with self._errors_told():
            if self._folder is not None:
                self._folder.mkdir(exist_ok=True)
                remove_leftovers(self._folder)

    def labels(self, splits: Mapping[str, CocoDataset], input_size: tuple[int, int]) -> None:
        """Keep what the boxes of each split are like at the network's (height, width)."""
        if self._folder is None:
            return
        with self._errors_told():
            found = {
                name: label_statistics(dataset, input_size) for name, dataset in splits.items()
            }
            replace_text(self._folder / LABELS, json.dumps(found) + "\n")

    def first_batches(
        self, batches: Iterable[Batch], model_config: ModelConfig, class_map: ClassMap
    ) -> Iterator[Batch]:
        """The batches as they come; of the first of a run a picture each is kept."""
        for number, batch in enumerate(batches, 1):
            if self._folder is not None and number <= NUM_BATCHES:
                self._keep_batch(
                    self._folder / f"batch-{number}.jpg", batch, model_config, class_map
                )
            yield batch

    def _keep_batch(
        self, path: Path, batch: Batch, model_config: ModelConfig, class_map: ClassMap
    ) -> None:
        with self._errors_told():
            if not path.exists():
                sheet = draw_batch(batch, model_config, class_map)
                write_atomically(path, lambda file: sheet.save(file, "JPEG", quality=85))

    def hold(self, results: Results) -> None:
        """Take the detections of a validation, until it is known whether it is the best."""
        self._results = results if self._folder is not None else None

    def keep_best(self, validation: Validation) -> None:
        """Keep the detections that are held, in the place of those of an earlier validation.

        ``best.json`` comes last: killed at any time, the folder holds one validation or the other.
        """
        folder, results, self._results = self._folder, self._results, None
        if folder is None or results is None:
            return
        with self._errors_told():
            if len(results) > MOST_DETECTIONS:
                raise OSError(f"{len(results):,} detections are more than {MOST_DETECTIONS:,}")
            name = f"detections-{validation.epoch:04d}.json"
            replace_text(folder / TRUTH, json.dumps(_truth(validation)) + "\n")
            write_results(results, folder / name)
            replace_text(
                folder / BEST_VALIDATION, json.dumps(_describe(validation, name), indent=1) + "\n"
            )
            for path in folder.glob("detections-*.json"):
                if path.name != name:
                    path.unlink()

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a picture less is no reason to end a run
            if not self._warned:
                self._warned = True
                reason = one_line(error) or type(error).__name__
                self._warn(f"{FOLDER}/ is not complete ({reason}); the training goes on")


def validated_images(weights: str | Path, folder: str | Path | None = None) -> list[Path]:
    """The images that the run of a weights file was validated on and that are still there.

    None for weights outside of a run folder.

    Args:
        weights: file in a run folder.
        folder: where the images are now; by default where they were.
    """
    kept = Path(weights).parent / FOLDER
    try:
        images = Path(folder or _read(kept / BEST_VALIDATION)["images"])
        truth = _read(kept / TRUTH)
        paths = [images / image["file_name"] for image in truth["images"]]
        return [path for path in paths if path.is_file()]
    except (EffdetError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


def _read(path: Path) -> Any:
    return json.loads(read_regular(path, "file", EffdetError, MAX_BYTES))


def _describe(validation: Validation, detections: str) -> dict[str, Any]:
    dataset = validation.dataset
    return {
        "epoch": validation.epoch,
        "time": time.time(),
        "figures": dict(validation.figures),
        "detections": detections,
        "truth": TRUTH,
        "annotations": str(dataset.annotations.absolute()),
        "images": str(dataset.images.absolute()),
        "class_map": dataset.class_map.to_dict(),
    }


def _truth(validation: Validation) -> dict[str, Any]:
    """The ground truth as COCO annotations, with the names and sizes of the images."""
    dataset = validation.dataset
    sizes = dataset.columns().sizes.tolist()
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, (height, width) in zip(
            dataset.image_ids.tolist(), dataset.file_names, sizes, strict=True
        )
    ]
    return validation.truth.to_coco() | {"images": images}
