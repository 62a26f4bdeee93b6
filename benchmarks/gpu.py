# SPDX-License-Identifier: Apache-2.0
"""Are the CUDA kernels right, free of waiting, and as fast as memory? One run answers on any GPU.

First every operator against its definition in PyTorch (gpu_checks.py). Then a whole training step
of EfficientDet-D0, captured in a CUDA graph, which is impossible if anything waits for the GPU.
Then the times of the operators, each replayed from a CUDA graph, beside the time that the GPU needs
to move the bytes that must be moved, at the bandwidth of a plain copy in the same run; and beside
PyTorch's, and where it is installed torchvision's, way of doing the same.

    python benchmarks/gpu.py

Writes benchmarks/results/gpu.json. Without a GPU it exits with 2, and the file says that nothing
was measured unless it holds figures already.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_checks import check_all
from measuring import RESULTS, write_result
from torch import Tensor

from effdet.anchors import Anchors, build_anchors
from effdet.config import model_config
from effdet.levels import flatten_levels
from effdet.losses import DetectionLoss
from effdet.models.efficientdet import build_model
from effdet.ops import build_info
from effdet.postprocess import Postprocess
from effdet.precision import build_scaler
from effdet.settings import NMS, PostprocessConfig
from effdet.structures import Batch, Target
from effdet.training import ModelEma, Trainer, build_optimizer
from effdet.training.schedule import ConstantSchedule

BATCH, CLASSES, CANDIDATES, DETECTIONS = 32, 90, 5000, 100
SIDES = (64, 32, 16, 8, 4)  # of the levels of D0 at 512 pixels
ANCHORS = 9 * sum(side**2 for side in SIDES)
GAMMA = 1.5
LEAST_SHARE = 0.8  # of the bandwidth of a copy, aimed at by focal loss and average
MOST_MS = 0.5  # aimed at by post-processing
MODEL = "efficientdet_d0"
OPS = torch.ops.effdet


def main() -> int:
    """Check, capture, measure, write."""
    reason = why_not()
    if reason is not None:
        print(f"benchmarks/gpu.py: {reason}; nothing was measured")
        if not has_figures(RESULTS / "gpu.json"):
            write_result("gpu", {"gpu": None, "not_measured": reason})
        return 2
    checks = check_all("cuda")
    print(f"{len(checks)} cases equal the definitions", flush=True)
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    figures: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "cases_checked": len(checks),
        "largest_error_in_units_of_the_allowed": max(checks.values()),
        "copy_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
        "train_step": train_step(),
    }
    print(json.dumps(figures, indent=2), flush=True)
    figures["times"] = [
        row(name, bandwidth, *subject)
        for measure in (focal_losses, box_losses, assignments, postprocessing, averages)
        for name, subject in measure().items()
    ]
    write_result("gpu", figures)
    return 0


def has_figures(result: Path) -> bool:
    """Whether a GPU was measured before."""
    return result.exists() and json.loads(result.read_text()).get("gpu") is not None


def why_not() -> str | None:
    """Why nothing can be measured here; None where it can."""
    if not torch.cuda.is_available():
        return "no GPU is visible to torch"
    if not build_info()["cuda_kernels"]:
        return f"no CUDA kernels ({build_info()['reason']})"
    return None


# --- timing ---

Peers = dict[str, Callable[[], Any]]
Subject = tuple[Callable[[], Any], int, Peers]
"""What to measure, the bytes that it must move, and its peers."""


def captured(run: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """``run`` as a CUDA graph; an error if it synchronises."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def milliseconds(run: Callable[[], Any], repeats: int = 30) -> float:
    """Median time of one call on the GPU, with nothing of its data in the caches before."""
    times = []
    elsewhere = torch.empty(2**28, dtype=torch.uint8, device="cuda")  # five times the L2 of an H200
    for _ in range(repeats):
        elsewhere.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[repeats // 2]


def graph_time(run: Callable[[], Any]) -> float:
    """Median milliseconds of ``run`` replayed from a graph."""
    graph = captured(run)
    time = milliseconds(graph.replay)
    graph.reset()
    return time


def copy_bandwidth() -> float:
    """Bytes per second that a copy of 1 GiB reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * graph_time(lambda: target.copy_(source)))


def row(
    name: str, bandwidth: float, ours: Callable[[], Any], size: int, peers: Peers
) -> dict[str, Any]:
    """One line of the result: our time, the floor, and the peers' times."""
    time, floor = graph_time(ours), 1e3 * size / bandwidth
    found = {
        "name": name,
        "ms": round(time, 4),
        "floor_ms": round(floor, 4),
        "share_of_copy_bandwidth": round(floor / time, 3),
    }
    if name.startswith(("focal loss", "EMA")):
        found |= {"least_share": LEAST_SHARE, "reached": floor / time >= LEAST_SHARE}
    if name.startswith("post-processing"):
        found |= {"most_ms": MOST_MS, "reached": time <= MOST_MS}
    for peer, run in peers.items():
        # Not from a graph: some of them synchronise.
        run()
        other = milliseconds(run, 5)
        found |= {
            f"{peer}_ms": round(other, 4),
            f"times_faster_than_{peer}": round(other / time, 2),
        }
    print(found, flush=True)
    return found


# --- the subjects ---


def head_outputs(values: int, dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    """Outputs of a head of D0 with little foreground."""
    return [
        (1.5 * torch.randn(BATCH, 9 * values, side, side, device="cuda") - 4)
        .to(dtype)
        .contiguous(memory_format=layout)
        for side in SIDES
    ]


def focal_losses() -> dict[str, Subject]:
    """Loss and gradient in one pass, and the loss alone."""
    targets = torch.full((BATCH, ANCHORS), -1, dtype=torch.int32, device="cuda")
    targets[:, ::500] = 17
    targets[:, 7::1000] = -2
    one = torch.ones((), device="cuda")
    subjects: dict[str, Subject] = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for layout in (torch.channels_last, torch.contiguous_format):
            logits = head_outputs(CLASSES, dtype, layout)
            moved = sum(x.numel() * x.element_size() for x in logits)
            for need_grad in (True, False):

                def ours(logits: list[Tensor] = logits, need_grad: bool = need_grad) -> Any:
                    settings = (CLASSES, 0.25, GAMMA, 0.0, need_grad)
                    return OPS.sigmoid_focal_loss(logits, targets, 100 * one, one, *settings)

                def plain(logits: list[Tensor] = logits) -> Any:
                    return torchvision_focal_loss(logits, targets)

                has_peer = need_grad and torchvision() is not None
                name = f"focal loss {dtype} {layout}" + (" with gradient" if need_grad else "")
                size = moved * (1 + need_grad) + 4 * targets.numel()
                subjects[name] = (ours, size, {"torchvision": plain} if has_peer else {})
    return subjects


def torchvision() -> Any:
    """torchvision.ops, or None where it is not installed."""
    try:
        from torchvision import ops
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    return ops


def torchvision_focal_loss(levels: list[Tensor], targets: Tensor) -> Tensor:
    """torchvision's loss on a one-hot tensor, with the gradient of the levels."""
    levels = [x.detach().requires_grad_() for x in levels]
    index = targets.long()
    one_hot = F.one_hot(index.clamp(min=0), CLASSES) * (index >= 0).unsqueeze(-1)
    logits = flatten_levels(levels, CLASSES)
    terms = torchvision().sigmoid_focal_loss(logits, one_hot.to(logits.dtype), 0.25, GAMMA)
    loss: Tensor = (terms * (index != -2).unsqueeze(-1)).sum(dtype=torch.float32) / 100
    torch.autograd.grad(loss, levels)
    return loss


def random_boxes(batch: int, count: int) -> Tensor:
    """``[batch, count, 4]`` xyxy boxes in 512 pixels."""
    corners = 400 * torch.rand(batch, count, 2, device="cuda")
    sizes = 20 + 92 * torch.rand(batch, count, 2, device="cuda")
    return torch.cat((corners, corners + sizes), -1)


def box_losses() -> dict[str, Subject]:
    """Loss and gradient of the boxes; deltas are read at the few matched anchors only."""
    anchors, boxes = build_anchors(model_config(MODEL), device="cuda"), random_boxes(BATCH, 8)
    matched = torch.full((BATCH, ANCHORS), -1, dtype=torch.int32, device="cuda")
    matched[:, ::500] = 3
    one = torch.ones((), device="cuda")
    subjects: dict[str, Subject] = {}
    for dtype in (torch.float16, torch.float32):
        for layout in (torch.channels_last, torch.contiguous_format):
            deltas = head_outputs(4, dtype, layout)

            def ours(deltas: list[Tensor] = deltas) -> Any:
                return OPS.huber_box_loss(
                    deltas, anchors, boxes, matched, 100 * one, one, 0.1, True
                )

            size = sum(x.numel() * x.element_size() for x in deltas) + 4 * matched.numel()
            subjects[f"box loss {dtype} {layout}"] = (ours, size, {})
    return subjects


def assignments() -> dict[str, Subject]:
    """Anchors to boxes; what must be moved are the two results."""
    anchors = build_anchors(model_config(MODEL), device="cuda")
    subjects: dict[str, Subject] = {}
    for count in (8, 100):
        boxes = random_boxes(BATCH, count)
        labels = torch.randint(0, CLASSES, (BATCH, count), device="cuda")

        def ours(boxes: Tensor = boxes, labels: Tensor = labels) -> Any:
            return OPS.assign_anchors(anchors, boxes, labels, 0.5, 0.5)

        def plain(boxes: Tensor = boxes) -> Any:
            return [torchvision().box_iou(anchors, image).max(1) for image in boxes]

        peers: Peers = {} if torchvision() is None else {"box_iou_and_max": plain}
        subjects[f"assignment, {count} boxes"] = (ours, 8 * BATCH * ANCHORS, peers)
    return subjects


def postprocessing() -> dict[str, Subject]:
    """From the heads' outputs to 100 detections an image; the logits must be read once."""
    anchors = build_anchors(model_config(MODEL), device="cuda")
    methods: tuple[NMS, ...] = ("hard", "gaussian")
    process = {
        method: Postprocess(anchors=anchors, config=PostprocessConfig(nms=method))
        for method in methods
    }
    scales = torch.ones(BATCH, device="cuda")
    sizes = torch.full((BATCH, 2), 512.0, device="cuda")
    subjects: dict[str, Subject] = {}
    for dtype in (torch.float16, torch.float32):
        for layout in (torch.channels_last, torch.contiguous_format):
            logits, deltas = (head_outputs(n, dtype, layout) for n in (CLASSES, 4))

            def candidates(logits: list[Tensor] = logits, deltas: list[Tensor] = deltas) -> Any:
                return OPS.select_candidates(logits, deltas, anchors, CLASSES, CANDIDATES, 0.0, [])

            def detect(
                method: NMS, logits: list[Tensor] = logits, deltas: list[Tensor] = deltas
            ) -> Any:
                return process[method].detect(logits, deltas, scales, sizes)

            def plain(logits: list[Tensor] = logits) -> Any:
                return flatten_levels(logits, CLASSES).flatten(1).topk(CANDIDATES)

            size = sum(x.numel() * x.element_size() for x in logits)
            of = f"{dtype} {layout}"
            subjects[f"candidates {of}"] = (candidates, size, {"cat_and_topk": plain})
            for method in process:
                run = functools.partial(detect, method)
                subjects[f"post-processing, {method} NMS {of}"] = (run, size, {})
    subjects["hard NMS alone"] = hard_nms()
    return subjects


def hard_nms() -> Subject:
    """NMS of 5,000 candidates an image."""
    boxes, labels = random_boxes(BATCH, CANDIDATES), torch.randint(0, CLASSES, (BATCH, CANDIDATES))
    labels = labels.cuda()
    scores = torch.rand(BATCH, CANDIDATES, device="cuda").sort(descending=True).values

    def ours() -> Any:
        settings = ("hard", 0.5, 0.5, 0.001, DETECTIONS, 0, False)
        return OPS.nms(boxes, scores, labels, *settings)

    def plain() -> Any:
        images = zip(boxes, scores, labels, strict=True)
        return [torchvision().batched_nms(*image, 0.5)[:DETECTIONS] for image in images]

    peers: Peers = {} if torchvision() is None else {"batched_nms": plain}
    return ours, 4 * (boxes.numel() + scores.numel() + 2 * labels.numel()), peers


def averages() -> dict[str, Subject]:
    """The moving average of all weights: two tensors read, one written."""
    subjects: dict[str, Subject] = {}
    for name in ("efficientdet_d0", "efficientdet_d7"):
        model = build_model(model_config(name)).cuda()
        ema = ModelEma(model, 0.999)
        state = [x for x in model.state_dict().values() if x.is_floating_point()]
        shadow = [x for x in ema.module.state_dict().values() if x.is_floating_point()]

        def ours(ema: ModelEma = ema, model: torch.nn.Module = model) -> None:
            ema.update(model)

        def plain(shadow: list[Tensor] = shadow, state: list[Tensor] = state) -> None:
            torch._foreach_lerp_(shadow, state, 0.001)

        size = 12 * sum(x.numel() for x in state)
        subjects[f"EMA {name}"] = (ours, size, {"foreach_lerp": plain})
    return subjects


# --- the step ---


def train_step() -> dict[str, Any]:
    """The Trainer's step of D0 (losses, clipping, optimizer, EMA), also as one CUDA graph.

    The same step also runs with PyTorch's own detection of synchronisation set to raise.
    """
    config = model_config(MODEL)
    model, device = build_model(config).cuda(), torch.device("cuda")
    trainer = Trainer(
        model=model,
        criterion=DetectionLoss(Anchors(config, device)),
        optimizer=build_optimizer(model, lr=1e-3, momentum=0.9, weight_decay=4e-5),
        schedule=ConstantSchedule(lr=1e-3, warmup_lr=0.0, warmup_steps=0, total_steps=1_000_000),
        scaler=build_scaler(device, torch.bfloat16),
        ema=ModelEma(model, 0.999),
        device=device,
        dtype=torch.bfloat16,
    )
    images = torch.randn(BATCH, 3, *config.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels, crowd = torch.arange(8, device=device), torch.zeros(8, dtype=torch.bool, device=device)
    targets = [
        Target(boxes=b, labels=labels, crowd=crowd, image_id=i, scale=1.0, size=config.image_size)
        for i, b in enumerate(random_boxes(BATCH, 8))
    ]
    batch = Batch(images=images, targets=targets)
    loss = torch.zeros((), device=device)
    trainer.set_train_mode()

    def step() -> None:
        values, _ = trainer.train_step([batch])
        loss.copy_(values["loss"])

    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    eager = milliseconds(step, 10)
    graph = captured(step)
    before = loss.item()
    replayed = milliseconds(graph.replay)
    if not loss.isfinite() or loss.item() == before:
        raise SystemExit(f"the captured step does not train: loss {before}, then {loss.item()}")
    return {
        "model": f"{MODEL}, {BATCH} images, bfloat16 autocast",
        "synchronises": False,
        "captured_in_a_cuda_graph": True,
        "eager_ms": round(eager, 3),
        "graph_ms": round(replayed, 3),
        "images_per_s_graph": round(1e3 * BATCH / replayed, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
