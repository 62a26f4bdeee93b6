# SPDX-License-Identifier: Apache-2.0
"""One file under the clock, in a process of its own.

So its memory and its threads are its own: what another runtime has allocated or left running does
not show in its figures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from effdet import processes
from effdet.data import SplitFiles
from effdet.data.images import decode_image
from effdet.data.transforms import letterbox
from effdet.errors import EffdetError
from effdet.export import ExportedNetwork
from effdet.export.kinds import kind_of
from effdet.inference import Detector, load
from effdet.inference.scoring import score_split
from effdet.settings import PostprocessConfig

Stage = Literal["model", "detections", "files"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process is to load.

    Attributes:
        weights: a weights file, a public name or an exported file.
        images: the image files that are timed.
        threads: of torch and of the runtime.
        device: of weights.
        use_ema: take averaged weights.
        trust_code: run a ``.pt2``.
    """

    weights: str
    images: tuple[Path, ...]
    threads: int | None
    device: str | None
    use_ema: bool
    trust_code: bool


def serve(connection: Connection, job: Job) -> None:
    """Load ``job`` and do what the other end asks for, until it sends None."""
    try:
        subject = Subject(job)
        connection.send(subject.describe())
        for name, arguments in iter(connection.recv, None):
            connection.send(getattr(subject, name)(*arguments))
    except EOFError:  # the other end is gone
        return
    except EffdetError as error:
        connection.send(error)
    except Exception as error:  # such as no memory: the other process must hear of it
        connection.send(EffdetError(f"{job.weights}: {type(error).__name__}: {error}"))


class Subject:
    """A detector with images for it."""

    def __init__(self, job: Job) -> None:
        """Load weights and images."""
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.images = list(job.images)
        pixels = [decode_image(path) for path in self.images]
        self._before = processes.resident_memory() or processes.peak_memory() or 0
        self.detector: Detector = load(
            job.weights, device=job.device, use_ema=job.use_ema, trust_code=job.trust_code
        )
        config = self.detector.config
        self._inputs = [letterbox(p, config.image_size, config.mean, config.std)[0] for p in pixels]
        self._pixels = pixels
        self._process = self.detector.build_postprocess()

    def describe(self) -> dict[str, Any]:
        """What it is: kind, model, input size, threads and device."""
        network = self.detector.model
        kind = "PyTorch"
        inside = False
        if isinstance(network, ExportedNetwork):
            kind, inside = kind_of(network.path).runtime, network.info.has_detections
        return {
            "kind": kind + (", NMS inside" if inside else ""),
            "model": self.detector.config.name,
            "image_size": list(self.detector.config.image_size),
            "threads": torch.get_num_threads(),
            "device": str(self.detector.device),
        }

    @torch.inference_mode()
    def time(self, stage: Stage, number: int, batch_size: int) -> float:
        """Seconds of one call.

        Args:
            stage: ``model`` alone, with ``detections`` made of it, or from image ``files``.
            number: of the call: each takes the next images.
            batch_size: images of it.
        """
        places = [(number * batch_size + i) % len(self.images) for i in range(batch_size)]
        call = self._call(stage, places)
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _call(self, stage: Stage, places: list[int]) -> Callable[[], object]:
        detector = self.detector
        if stage == "model":
            batch = torch.stack([self._inputs[i] for i in places]).to(
                detector.device, memory_format=torch.channels_last
            )
            return lambda: detector.model(batch)
        if stage == "detections":
            pixels = [self._pixels[i] for i in places]
            return lambda: detector.detect(pixels, self._process)
        files = [self.images[i] for i in places]
        return lambda: detector.predict(files, batch_size=len(files))

    def _wait(self) -> None:
        if self.detector.device.type == "cuda":
            torch.cuda.synchronize(self.detector.device)

    def memory(self) -> int:
        """Bytes that loading and running took at most, beyond Python, torch and the images."""
        if self.detector.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.detector.device)
        return max((processes.peak_memory() or 0) - self._before, 0)

    def score(self, files: SplitFiles) -> float | None:
        """AP on a split, with the post-processing of published figures, or the file's own."""
        self.detector.postprocess = PostprocessConfig()
        return score_split(self.detector, files, workers=0).metrics.figures["AP"]
