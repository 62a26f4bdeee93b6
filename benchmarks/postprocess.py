# SPDX-License-Identifier: Apache-2.0
"""How long does post-processing take, against that of the ``effdet`` 0.4.1 package?

Outputs of EfficientDet-D0 for four images (49,104 anchors, 90 classes) as a trained network gives
them, mostly background, become 100 detections an image: selection of 5,000 candidates, boxes,
suppression, original pixels. Both packages are called effdet, so each is measured in an interpreter
of its own, in turns, on the same inputs and anchors (the other package's own have rounded aspect
ratios), on one thread; the best of all in CPU time counts.

    python -m venv peer
    peer/bin/pip install torch==2.14.1 torchvision==0.29.1 pycocotools timm effdet==0.4.1
    python benchmarks/postprocess.py --peer peer/bin/python

Writes benchmarks/results/postprocess.json. ``same_detections`` is the share of our detections that
the other package has too: the same class, a score within 1e-4 and a box within 0.01 pixels.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NUM_IMAGES, NUM_CLASSES, NUM_CANDIDATES, MAX_DETECTIONS = 4, 90, 5000, 100
FEATURE_SIZES = (64, 32, 16, 8, 4)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
METHODS = ("hard", "gaussian")
ROUNDS, REPEATS, MAX_SECONDS = 3, 7, 10


def main() -> None:
    """Measure, or, called with ``--subject``, be the process that is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", help="python of an environment with effdet 0.4.1")
    parser.add_argument("--subject", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--anchors", help=argparse.SUPPRESS)
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subject:
        anchors = torch.load(args.anchors, weights_only=True)
        print(json.dumps(measure(args.subject, anchors, args.layout, args.method)))
        return
    if not args.peer:
        parser.error("--peer is needed (see the text at the top of this file)")
    with tempfile.TemporaryDirectory() as folder:
        anchors = str(Path(folder) / "anchors.pt")
        save_anchors(anchors)
        rows = [
            compare(args.peer, anchors, layout, method) for method in METHODS for layout in LAYOUTS
        ]
    torch.set_num_threads(1)  # as in the processes that were measured
    importlib.import_module("measuring").write_result("postprocess", {"rows": rows})


def save_anchors(file: str) -> None:
    """``[A, 4]`` xyxy of D0."""
    config = importlib.import_module("effdet.config").MODELS["efficientdet_d0"]
    torch.save(importlib.import_module("effdet.anchors").build_anchors(config), file)


def compare(peer: str, anchors: str, layout: str, method: str) -> dict[str, Any]:
    """Both packages in turns; times in milliseconds for the four images."""
    measured: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        measured["ours"].append(run(sys.executable, "ours", anchors, layout, method))
        measured["peer"].append(run(peer, "peer", anchors, layout, method))
    ours, theirs = (min(one["ms"] for one in runs) for runs in measured.values())
    found, expected = (torch.tensor(runs[0]["found"]) for runs in measured.values())
    row = {
        "method": method,
        "layout": layout,
        "ours_ms": round(ours, 3),
        "peer_ms": round(theirs, 3),
        "times_faster_than_peer": round(theirs / ours, 2),
        "same_detections": round(share_found(found, expected), 4),
    }
    print(row, flush=True)
    return row


def run(python: str, subject: str, anchors: str, layout: str, method: str) -> dict[str, Any]:
    """A measurement in a new process of the interpreter ``python``."""
    words = [python, "-W", "ignore", __file__, "--subject", subject, "--anchors", anchors]
    words += ["--layout", layout, "--method", method]
    # Our package must not be found by the interpreter of the other one.
    environment = {k: v for k, v in os.environ.items() if subject == "ours" or k != "PYTHONPATH"}
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(subject: str, anchors: Tensor, layout: str, method: str) -> dict[str, Any]:
    """The best time of several, and what was found: rows of (image, box, score, label)."""
    torch.set_num_threads(1)
    cls_logits, box_deltas = heads()
    memory_format = LAYOUTS[layout]
    cls_logits = [level.contiguous(memory_format=memory_format) for level in cls_logits]
    if subject == "peer":
        box_deltas = [swap_axes(level) for level in box_deltas]
    box_deltas = [level.contiguous(memory_format=memory_format) for level in box_deltas]
    build = build_ours if subject == "ours" else build_peer
    detect = build(cls_logits, box_deltas, anchors, method)
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            start = time.process_time()
            found = detect()
            times.append(time.process_time() - start)
            if sum(times) > MAX_SECONDS:
                break
    return {"ms": 1e3 * min(times), "found": as_rows(found).tolist()}


def heads() -> tuple[list[Tensor], list[Tensor]]:
    """Class logits and box deltas a level: background about -6, some forty objects an image."""
    generator = torch.Generator().manual_seed(3)
    cls_logits, box_deltas = [], []
    for size in FEATURE_SIZES:
        shape = (NUM_IMAGES, 9 * NUM_CLASSES, size, size)
        logits = torch.randn(shape, generator=generator) * 0.8 - 6
        logits[torch.rand(shape, generator=generator) < 2.5e-5] += 7
        cls_logits.append(logits)
        box_deltas.append(torch.randn(NUM_IMAGES, 36, size, size, generator=generator) * 0.1)
    return cls_logits, box_deltas


def swap_axes(deltas: Tensor) -> Tensor:
    """Our (tx, ty, tw, th) as the other package's (ty, tx, th, tw)."""
    return deltas.unflatten(1, (9, 4))[:, :, [1, 0, 3, 2]].flatten(1, 2)


def build_ours(
    cls_logits: list[Tensor], box_deltas: list[Tensor], anchors: Tensor, method: str
) -> Callable[[], list[Tensor]]:
    """What ``Postprocess`` finds: an image's rows of (box, score, label)."""
    settings = importlib.import_module("effdet.settings")
    process = importlib.import_module("effdet.postprocess").Postprocess(
        anchors=anchors,
        config=settings.PostprocessConfig(
            nms=method,
            max_candidates=NUM_CANDIDATES,
            max_detections=MAX_DETECTIONS,
            # The other package has no threshold for hard suppression.
            score_threshold=0.001 if method == "gaussian" else 0.0,
        ),
    )
    scales, sizes = torch.ones(NUM_IMAGES), torch.full((NUM_IMAGES, 2), 512)

    def detect() -> list[Tensor]:
        found = process.detect(cls_logits, box_deltas, scales, sizes)
        rows = torch.cat([found.boxes, found.scores[..., None], found.labels[..., None]], -1)
        return [row[:count] for row, count in zip(rows, found.counts.tolist(), strict=True)]

    return detect


def build_peer(
    cls_logits: list[Tensor], box_deltas: list[Tensor], anchors: Tensor, method: str
) -> Callable[[], list[Tensor]]:
    """The same from the functions that the other package's predictor calls."""
    bench = importlib.import_module("effdet.bench")
    anchors = anchors[:, [1, 0, 3, 2]]  # yxyx
    scales = torch.ones(NUM_IMAGES)

    def detect() -> list[Tensor]:
        logits, deltas, indices, classes = bench._post_process(
            cls_logits, box_deltas, len(FEATURE_SIZES), NUM_CLASSES, NUM_CANDIDATES
        )
        found = bench._batch_detection(
            NUM_IMAGES,
            logits,
            deltas,
            anchors,
            indices,
            classes,
            scales,
            None,
            MAX_DETECTIONS,
            method == "gaussian",
        )
        return [rows - rows.new_tensor([0, 0, 0, 0, 0, 1]) for rows in found]

    return detect


def as_rows(found: list[Tensor]) -> Tensor:
    """``[N, 7]`` (image, x1, y1, x2, y2, score, label) of all images."""
    return torch.cat(
        [torch.cat([torch.full_like(rows[:, :1], i), rows], 1) for i, rows in enumerate(found)]
    )


def share_found(found: Tensor, expected: Tensor) -> float:
    """Share of the rows of ``found`` that ``expected`` has, nearly."""
    tolerance = torch.tensor([0, 0.01, 0.01, 0.01, 0.01, 1e-4, 0])
    near = ((found[:, None] - expected[None]).abs() <= tolerance).all(-1)
    return near.any(1).float().mean().item()


if __name__ == "__main__":
    main()
