# SPDX-License-Identifier: Apache-2.0
"""``effdet benchmark``: all files take turns, so that what the machine does hits them alike."""

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet.bars import Bar
from effdet.benchmark.subject import Job, Stage, serve
from effdet.data import CocoDataset, SplitFiles, locate_split, read_split
from effdet.data.shapes import draw
from effdet.distributed import pick_device
from effdet.errors import EffdetError, UsageError
from effdet.export import is_exported
from effdet.export.kinds import files_of, kind_of, refuse_trust
from effdet.inference import expand_sources
from effdet.inference.load import check_exported
from effdet.inference.sources import ImageSource
from effdet.settings import BenchmarkConfig
from effdet.weights.download import resolve

STAGES: dict[Stage, str] = {
    "model": "model only",
    "detections": "pixels to detections",
    "files": "image files to detections",
}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one kind of call.

    Attributes:
        stage: what was timed.
        batch_size: images a call.
        median, p90, p99: milliseconds a call.
        images_per_second: at the median.
        ratio: median by that of the first file; below 1 is faster.
    """

    stage: Stage
    batch_size: int
    median: float
    p90: float
    p99: float
    images_per_second: float
    ratio: float


@dataclass(kw_only=True)
class Row:
    """One file.

    Attributes:
        weights: as it was given.
        kind: what runs it.
        model: which model it is.
        image_size: ``[height, width]`` of the network's input.
        threads: of the runtime.
        device: where it runs.
        megabytes: size of its files; None for a public name.
        memory: megabytes at most that loading and running it took.
        ap: on the data set; None where there is none.
        timings: one a stage and batch size.
    """

    weights: str
    kind: str
    model: str
    image_size: list[int]
    threads: int
    device: str
    megabytes: float | None
    memory: float = 0.0
    ap: float | None = None
    timings: list[Timing] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All files, in the order in which they were given, and what they were run on."""

    images: str
    rounds: int
    rows: list[Row]


def benchmark(config: BenchmarkConfig) -> Report:
    """Time every file of ``config``, and score it where there is a data set.

    Raises:
        UsageError, DataError, WeightsError, ExportError: what loading raises.
    """
    check_weights(config)
    with contextlib.ExitStack() as stack:
        files, split, words = _images(config, stack)
        workers = [stack.enter_context(_worker(name, config, files)) for name in config.weights]
        rows = [
            Row(weights=name, megabytes=_megabytes(name), **worker.ask_first())
            for name, worker in zip(config.weights, workers, strict=True)
        ]
        total = len(STAGES) * len(config.batch_size) * (config.warmup + config.rounds)
        with Bar(total=total, desc="timing", unit="round", disable=None) as progress:
            for batch_size in config.batch_size:
                for stage in STAGES:
                    _time_in_turn(config, workers, rows, stage, batch_size, progress)
        for worker, row in zip(workers, rows, strict=True):
            row.memory = worker.ask("memory") / 1e6
        if split is not None:
            for worker, row in zip(Bar(workers, "scoring", disable=None), rows, strict=True):
                row.ap = worker.ask("score", split)
    return Report(images=words, rounds=config.rounds, rows=rows)


def check_weights(config: BenchmarkConfig) -> None:
    """Tell before any process starts what is wrong with a file, or with an option for it.

    Raises:
        UsageError, WeightsError, ExportError: as loading would.
    """
    refuse_trust(config.weights, config.trust_code)
    for name in config.weights:
        if not is_exported(name):
            pick_device(config.device)
            resolve(name)
            continue
        job = build_job(name, config, ())
        check_exported(name, device=job.device, use_ema=job.use_ema)
        path = Path(name)
        kind = kind_of(path)
        kind.read(path)
        if kind.is_code and not config.trust_code:
            kind.run(path, False)  # refuses


class _Worker:
    """A process that has a file loaded."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self._connection = name, connection

    def ask_first(self) -> Any:
        """What the process says once the file is loaded."""
        return self._answer()

    def ask(self, command: str, *arguments: object) -> Any:
        """The answer to a command of :class:`effdet.benchmark.subject.Subject`."""
        self._connection.send((command, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError as error:
            raise EffdetError(
                f"{self.name}: its process ended early, maybe for want of memory"
            ) from error
        if isinstance(answer, EffdetError):
            raise answer
        return answer


@contextlib.contextmanager
def _worker(name: str, config: BenchmarkConfig, files: Sequence[Path]) -> Iterator[_Worker]:
    job = build_job(name, config, files)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()
    try:
        yield _Worker(name, ours)
        ours.send(None)
        process.join(10)
    finally:
        process.kill()
        process.join()


def build_job(name: str, config: BenchmarkConfig, files: Sequence[Path]) -> Job:
    """What the process of one file is to load.

    Options of weights are not meant for an exported file that stands beside weights; where there is
    none such, loading refuses them.
    """
    beside = is_exported(name) and not all(map(is_exported, config.weights))
    return Job(
        weights=name,
        images=tuple(files),
        threads=config.threads,
        device=None if beside else config.device,
        use_ema=beside or config.use_ema,
        trust_code=config.trust_code,
    )


def _time_in_turn(
    config: BenchmarkConfig,
    workers: Sequence[_Worker],
    rows: Sequence[Row],
    stage: Stage,
    batch_size: int,
    progress: Any,
) -> None:
    """Add the timings of one stage and batch size to ``rows``."""
    times: list[list[float]] = [[] for _ in workers]
    for number in range(config.warmup + config.rounds):
        for worker, seconds in zip(workers, times, strict=True):
            seconds.append(1e3 * worker.ask("time", stage, number, batch_size))
        progress.update()
    first = float(np.median(times[0][config.warmup :]))
    for row, values in zip(rows, times, strict=True):
        median, p90, p99 = np.percentile(values[config.warmup :], [50, 90, 99]).tolist()
        row.timings.append(
            Timing(
                stage=stage,
                batch_size=batch_size,
                median=median,
                p90=p90,
                p99=p99,
                images_per_second=1e3 * batch_size / median,
                ratio=median / first,
            )
        )


def _images(
    config: BenchmarkConfig, stack: contextlib.ExitStack
) -> tuple[list[Path], SplitFiles | None, str]:
    """The images to be timed, the split to be scored, and in words what they are."""
    if config.data is not None:
        split = locate_split(config.data, config.split, None, None)
        dataset = CocoDataset(read_split(split), split.images)  # refuses names that lead elsewhere
        files = [dataset.path(i) for i in range(min(config.count, len(dataset)))]
        return files, split, f"{config.data}, {config.split}"
    if config.images is not None:
        sources = expand_sources([config.images])
        places = [source.place for source in sources if isinstance(source, ImageSource)]
        files = [place for place in places if isinstance(place, Path)]
        if not files:
            raise UsageError(f"{config.images}: no image file here")
        return files[: config.count], None, config.images
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for i in range(config.count):
        Image.fromarray(draw("val", i).pixels).save(folder / f"{i:04}.jpg", quality=90)
    return sorted(folder.iterdir()), None, "drawn pictures"


def _megabytes(weights: str) -> float | None:
    files = [file for file in files_of(Path(weights)) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6 if files else None
