# SPDX-License-Identifier: Apache-2.0
"""Every way by which a weights file comes into a program, each a call of the program itself."""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import train
import validate
from effdet import cli
from effdet.config import ClassifierConfig
from effdet.errors import run
from effdet.models import EfficientNetClassifier
from effdet.weights import load_checkpoint, load_classifier, load_detector
from effdet.weights.classifier_file import Classifier, save_classifier
from effdet.weights.formats import open_file
from effdet.weights.published import save_published
from tests.fuzz.forked import Outcome, in_child
from tests.fuzz.hostile_weights import damaged_training, kinds, write_changed
from tests.runs import tiny_coco
from tests.tiny import TINY, train_here

MB = 2**20
MEMORY, SECONDS = 256 * MB, 2.0
"""What refusing a file may cost beyond refusing one that is not there."""

DESCRIBED = re.compile(r"0 $")
"""``effdet info`` tells what a file is, also where no program would take it."""


class Doors:
    """The programs, with all that they need beside the file: data and the run of a tiny model.

    Needs :func:`tests.tiny.tiny_model`.

    Attributes:
        good: a checkpoint of the run.
        published: safetensors of the same model.

    Args:
        folder: to write into; empty.
    """

    def __init__(self, folder: Path) -> None:
        data = tiny_coco(folder / "data")
        words = ("--data", data, "--epochs", "1", "--batch-size", "2", "--output", folder / "run")
        if train_here(*TINY, *words) != 0:
            raise AssertionError("the run of the tiny model failed")
        self.good, self.published = folder / "run/last.pt", folder / "good.safetensors"
        save_published(load_checkpoint(self.good), self.published)
        self._missing = folder / "missing.pt"
        self._fine = {"average": folder / "second.pt", "backbone": folder / "classifier.pt"}
        shutil.copy(self.good, self._fine["average"])
        _save_classifier(self._fine["backbone"])
        image, good = next((data / "val").iterdir()), self.good
        out = folder / "out"
        out.mkdir()

        def new(start: str) -> Path:
            return out / f"{start}{os.getpid()}"

        small = ("--device", "cpu", "--workers", "0")
        train_words = ("--data", data, "--batch-size", "2", "--epochs", "1", *small)
        self.programs: dict[
            str, tuple[Callable[[], None], Callable[[Path], tuple[object, ...]]]
        ] = {
            "info": (cli.main, lambda f: ("info", f)),
            "convert": (cli.main, lambda f: ("convert", f, out / f"{os.getpid()}.safetensors")),
            "predict": (
                cli.main,
                lambda f: (
                    "predict",
                    image,
                    "--weights",
                    f,
                    "--output",
                    out / f"p{os.getpid()}",
                    "--device",
                    "cpu",
                ),
            ),
            "average": (
                cli.main,
                lambda f: ("average", good, f, "--output", out / f"{os.getpid()}.pt"),
            ),
            "validate": (validate.main, lambda f: ("--data", data, "--weights", f, *small)),
            "weights": (
                train.main,
                lambda f: ("--weights", f, "--output", new("r"), *train_words),
            ),
            "backbone": (
                train.main,
                lambda f: (
                    "--backbone-weights",
                    f,
                    "--output",
                    new("b"),
                    "--model",
                    "tiny",
                    *train_words,
                ),
            ),
            "resume": (train.main, lambda f: ("--resume", f, "--device", "cpu")),
        }

    def enter(self, door: str, file: Path) -> str:
        """``CODE LINE``: the exit code and what the program says on standard error."""
        main, words = self.programs[door]
        sys.argv = [door, *map(str, words(file))]
        said = io.StringIO()
        code = 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                run(main, door)
            except SystemExit as stop:
                code = int(stop.code or 0)
        return f"{code} {said.getvalue()}"

    def begin(self, door: str) -> Outcome:
        """What it costs to come to the door: the refusal of a file that is not there."""
        outcome = in_child(lambda: self.enter(door, self._missing))
        if not outcome.text.startswith("4 "):
            raise AssertionError(f"{door}, a file that is not there: {outcome.text}")
        return outcome

    def succeed(self, door: str) -> str:
        """What goes wrong with a good file; nothing if nothing does."""
        outcome = in_child(lambda: self.enter(door, self._fine.get(door, self.good)), 120.0)
        return "" if outcome.text.startswith("0 ") else outcome.text


def _save_classifier(path: Path) -> None:
    config = ClassifierConfig(backbone="efficientnet_tiny")
    torch.manual_seed(4)
    state = EfficientNetClassifier(config).state_dict()
    save_classifier(Classifier(config=config, state=state, origin="", licence=""), path)


@dataclass
class Refusals:
    """What came of hostile files at one door or more.

    Attributes:
        entries: how many files at how many doors.
        faults: what went wrong, by door and kind of file.
        memory: the most bytes of one refusal.
        seconds: the most processor time of one, with what the program needs to begin.
    """

    entries: int
    faults: dict[str, str]
    memory: int
    seconds: float


def refusals(doors: Doors, door: str, files: Mapping[str, Path]) -> Refusals:
    """Bring every file to a door that lets a good one through."""
    found = Refusals(len(files), {}, 0, 0.0)
    start = doors.begin(door)
    for kind, path in files.items():
        outcome = in_child(lambda path=path: doors.enter(door, path))  # type: ignore[misc]
        found.memory = max(found.memory, outcome.memory)
        found.seconds = max(found.seconds, outcome.seconds)
        if said := fault(outcome, start, path, door):
            found.faults[f"{door}: {kind}"] = said
    return found


def fault(outcome: Outcome, start: Outcome, path: Path, door: str) -> str:
    """What is wrong with the refusal of a file; nothing where it is as it should be."""
    if outcome.memory > start.memory + MEMORY:
        return f"{(outcome.memory - start.memory) / MB:.0f} MB"
    if outcome.seconds > start.seconds + SECONDS:
        return f"{outcome.seconds - start.seconds:.1f} s"
    if door == "info" and DESCRIBED.match(outcome.text):
        return ""
    code, _, said = outcome.text.partition(" ")
    line = said.removesuffix("\n")
    fine = (
        code == "4"
        and line.isprintable()
        and str(path.with_suffix("")) in line
        and len(line) <= 1000
    )
    return "" if fine else outcome.text[:600]


def hostile_files(doors: Doors, folder: Path, every: int = 1) -> dict[str, Path]:
    """Every kind of hostile file, or each ``every``-th, in ``folder``."""
    folder.mkdir()
    return kinds(folder, doors.good, doors.published, every)


def hostile_states(doors: Doors, folder: Path, every: int = 1) -> dict[str, Path]:
    """Checkpoints with another training state and a right digest."""
    made = {}
    for number, (kind, change) in enumerate(list(damaged_training().items())[::every]):
        made[kind] = folder / f"{number:02}" / "last.pt"
        made[kind].parent.mkdir(parents=True)
        write_changed(doors.good, change, made[kind])
    return made


def all_refusals(folder: Path, names: Iterable[str] = ()) -> dict[str, object]:
    """Every hostile file at every door, or at those with the ``names``; figures."""
    doors = Doors(folder)
    files = hostile_files(doors, folder / "files")
    states = hostile_states(doors, folder / "states")
    names = tuple(names) or tuple(doors.programs)
    found = [refusals(doors, name, files) for name in names]
    if "resume" in names:
        found.append(refusals(doors, "resume", states))
    faults = {f"{name}: a good file": said for name in names if (said := doors.succeed(name))}
    for one in found:
        faults |= one.faults
    return {
        "hostile_kinds": len(files) + len(states),
        "doors": len(names),
        "hostile_entries": sum(one.entries for one in found),
        "hostile_faults": faults,
        "hostile_memory_mb": round(max(one.memory for one in found) / MB),
        "hostile_longest_s": round(max(one.seconds for one in found), 3),
    }


READERS: dict[str, Callable[[Path], object]] = {
    "load_detector": load_detector,
    "load_classifier": load_classifier,
    "load_checkpoint": load_checkpoint,
    "open_file": open_file,
}
"""The functions behind the doors, for those who import the package."""
