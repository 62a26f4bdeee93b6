# SPDX-License-Identifier: Apache-2.0
"""Calls the operators with generated arguments under AddressSanitizer and UBSan.

    make sanitize                 # or, with a build by EFFDET_SANITIZE=1 in build/sanitize:
    python tests/fuzz_ops.py --cases 100000 --seed 0
    python tests/fuzz_ops.py --cases 1 --first 4711 --operator nms      # one case again

Most calls are right and must succeed; some have one argument spoilt (dtype, shape, length, extreme
numbers) and may be refused, but not crash. Every tenth result is compared with the operator's
definition in PyTorch. The first report of a sanitizer ends the program, which then names the case.
Writes benchmarks/results/sanitize.json if there was none.
"""

import argparse
import contextlib
import copy
import datetime
import importlib
import importlib.util
import json
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize" / "effdet"
RESULT = ROOT / "benchmarks" / "results" / "sanitize.json"
COMPARE_EVERY = 10
SPOIL_SHARE = 0.2
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
EXTREME_NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**62, -(2**62))
EXTREME_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e300, float("inf"), float("-inf"), float("nan"))
WILD = (torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-45, -0.0, 6e4, -1e5)


# --- arguments ---


class Draw(random.Random):
    """Draws the arguments of one case.

    Attributes:
        comparable: whether the definition must give the same; not where numbers overflow.
        refusable: whether an error is as good as a result.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        torch.manual_seed(self.getrandbits(48))
        self.comparable, self.refusable = True, False

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def size(self, most: int, zero: float = 0.05) -> int:
        """A size up to ``most``, small ones more often; 0 with the given probability."""
        return 0 if self.chance(zero) else 1 + int((most - 1) * self.random() ** 3)

    def floats(self, shape: Sequence[int], dtype: torch.dtype, scale: float = 3.0) -> Tensor:
        """Normal numbers, sometimes with many equal or with extreme ones."""
        x = scale * torch.randn(tuple(shape))
        if self.chance(0.2):
            x = x.round()
        if self.chance(0.1) and x.numel():
            self.comparable = False
            for _ in range(self.randint(1, 4)):
                x.view(-1)[self.randrange(x.numel())] = self.choice(WILD)
        return x.to(dtype)

    def layout(self, x: Tensor) -> Tensor:
        """The same values in other memory: other strides, gaps, an odd address."""
        kind = self.randrange(6)
        if kind == 0 and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if kind == 1 and x.dim() > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 2:
            return torch.stack((x, x), -1)[..., 0]
        if kind == 3:
            return torch.cat((x.new_ones(1), x.flatten()))[1:].view(x.shape)
        if kind == 4 and x.dim() and x.shape[-1] > 0:
            return x[..., :1].expand(x.shape)
        return x

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """``(anchors, height, width)`` of each level."""
        anchors, side = self.choice((1, 3, 9)), self.size(12)
        shapes = []
        for _ in range(self.randint(1, 4)):
            shapes.append((anchors, side, self.size(9) if self.chance(0.3) else side))
            side = (side + 1) // 2
        return shapes

    def levels(
        self, batch: int, shapes: Sequence[tuple[int, int, int]], values: int, dtype: torch.dtype
    ) -> list[Tensor]:
        """The heads' outputs; contiguous, channels-last or, sometimes, anything else."""
        levels = []
        for anchors, height, width in shapes:
            x = self.floats((batch, anchors * values, height, width), dtype)
            last = self.chance(0.6)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            if self.chance(0.1):  # the public functions copy other layouts, the operators need not
                x, self.refusable = self.layout(x), True
            levels.append(x)
        return levels

    def boxes(self, *shape: int) -> Tensor:
        """``[..., 4]`` xyxy; some without area, some turned round, some equal."""
        corners = 60 * torch.rand(*shape, 2)
        sizes = 40 * torch.rand(*shape, 2) * (torch.rand(*shape, 2) > 0.1)
        boxes = torch.cat((corners, corners + sizes), -1)
        if self.chance(0.3):
            boxes = boxes.round()
        if self.chance(0.1):
            boxes = boxes.flip(-1)
        if self.chance(0.1) and boxes.numel():
            self.comparable = False
            boxes.view(-1)[self.randrange(boxes.numel())] = self.choice(WILD)
        return self.layout(boxes)

    def spoilt(self, value: Any) -> Any:
        """One argument made wrong, or at least unusual."""
        if isinstance(value, Tensor):
            return self.spoilt_tensor(value)
        if isinstance(value, list) and value and self.chance(0.7):
            at = self.randrange(len(value))
            return [*value[:at], self.spoilt(value[at]), *value[at + 1 :]]
        if isinstance(value, list):
            return self.choice(([], value[1:], value + value))
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return self.choice(EXTREME_NUMBERS)
        if isinstance(value, float):
            return self.choice(EXTREME_FLOATS)
        return "other" if isinstance(value, str) else value

    def spoilt_tensor(self, x: Tensor) -> Tensor:
        kind = self.randrange(8)
        if kind == 0:
            return x.to(self.choice((*FLOATS, *INTEGERS)))
        if kind == 1:
            return x.unsqueeze(0)
        if kind == 2 and x.dim():
            return x.narrow(self.randrange(x.dim()), 0, 0)
        if kind == 3 and x.dim():
            dim = self.randrange(x.dim())
            return x.narrow(dim, 0, (x.shape[dim] + 1) // 2)
        if kind == 4 and x.dim() > 1:
            return x.transpose(0, -1)
        if kind == 5 and x.dim():
            return x.select(0, 0) if x.shape[0] else x
        if kind == 6:
            return x.to("meta")
        filler = self.choice(EXTREME_FLOATS if x.is_floating_point() else EXTREME_NUMBERS)
        with contextlib.suppress(RuntimeError):  # beyond the dtype
            return torch.full_like(x, filler)
        return x


# --- operators: their arguments, and the public function called with them ---


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of ``torch.ops.effdet``.

    Attributes:
        module: its file in effdet/ops, which holds the definition ``reference``.
        draw: right arguments of the operator.
        public: calls the public function with the operator's arguments.
        tolerance: largest relative and absolute difference from the definition, per dtype name
            or for all; None for bit equality.
    """

    module: str
    draw: Callable[[Draw], list[Any]]
    public: Callable[..., Any]
    tolerance: float | None = None


def draw_ema(draw: Draw) -> list[Any]:
    """Arguments of ``ema_update_``."""
    from effdet.ops.ema import joined_averages

    averages, values = [], []
    for _ in range(draw.size(12)):
        shape = [draw.size(7) for _ in range(draw.randrange(5))]
        if draw.chance(0.05):
            shape = [draw.size(100_000)]
        dtype = draw.choice((*FLOATS, *INTEGERS))
        average = dtype if dtype in (torch.float64, *INTEGERS) else torch.float32
        comparable = draw.comparable
        values.append(draw.layout(draw.floats(shape, dtype)))
        averages.append(draw.floats(shape, average))
        draw.comparable = comparable  # extreme numbers too must be equal
        if draw.chance(0.3) and len(shape) == 4:
            averages[-1] = averages[-1].contiguous(memory_format=torch.channels_last)
        elif draw.chance(0.2):
            averages[-1] = torch.stack((averages[-1],) * 2, -1)[..., 0]
    updates = torch.tensor([draw.choice((0, 1, 8, 10**6, 2**62, -5, 2**63 - 1)), 0])
    found_inf = draw.choice((None, None, torch.zeros(1), torch.ones(()), torch.tensor([torch.nan])))
    decay, joined = draw.choice((0.0, 0.5, 0.9998, 1.0)), draw.chance(0.5)
    if joined:
        averages = joined_averages(values)
    return [averages, values, updates, found_inf, decay, joined]


def call_ema(
    averages: Any, values: Any, updates: Any, found_inf: Any, decay: Any, joined: Any
) -> None:
    """The public function."""
    from effdet.ops import ema_update_

    ema_update_(averages, values, updates, decay=decay, found_inf=found_inf, joined=joined)


def scalar(draw: Draw, dtype: torch.dtype) -> Tensor:
    """A normalizer or a scale for levels of ``dtype``."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(draw.choice((1.0, 7.0, 65536.0)), dtype=wide)


def draw_focal_loss(draw: Draw) -> list[Any]:
    """Arguments of ``sigmoid_focal_loss``."""
    batch, num_classes = draw.size(3), draw.choice((1, 2, 4, 7, 20, 90))
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    logits = draw.levels(batch, shapes, num_classes, dtype)
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    targets = torch.randint(-2, num_classes, (batch, num_anchors), dtype=torch.int32)
    if draw.chance(0.2) and targets.numel():
        targets.view(-1)[0] = draw.choice((num_classes, -3, 2**31 - 1, -(2**31)))
        draw.comparable, draw.refusable = False, True
    return [
        logits, draw.layout(targets) if draw.chance(0.2) else targets,
        scalar(draw, dtype), scalar(draw, dtype), num_classes, draw.choice((0.0, 0.25, 1.0)),
        draw.choice((0.0, 0.5, 1.5, 2.0, 3.7)), draw.choice((0.0, 0.1)), draw.chance(0.7),
    ]  # fmt: skip


def call_focal_loss(
    logits: Any, targets: Any, normalizer: Any, grad_scale: Any, num_classes: Any, *settings: Any
) -> None:
    """The public function, forward and backward."""
    from effdet.ops import sigmoid_focal_loss

    alpha, gamma, label_smoothing, need_grad = settings
    logits = [x.detach().requires_grad_(need_grad) for x in logits]
    loss = sigmoid_focal_loss(
        logits, targets, num_classes=num_classes, alpha=alpha, gamma=gamma,
        label_smoothing=label_smoothing, normalizer=normalizer, grad_scale=grad_scale,
    )  # fmt: skip
    if loss.requires_grad:
        (2 * loss).backward()


def draw_rescale(draw: Draw) -> list[Any]:
    """Arguments of ``rescale_``."""
    dtype = draw.choice(FLOATS)
    gradients = draw.levels(draw.size(3), draw.level_shapes(), 4, dtype)
    gradients = [x.contiguous() if 0 in x.stride() else x for x in gradients]
    return [gradients, scalar(draw, dtype), scalar(draw, dtype)]


def call_rescale(*arguments: Any) -> None:
    """There is no public function."""
    torch.ops.effdet.rescale_(*arguments)


def draw_box_loss(draw: Draw) -> list[Any]:
    """Arguments of ``huber_box_loss``."""
    batch, num_boxes = draw.size(3), draw.size(9)
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    matched = torch.randint(-2, max(num_boxes, 1), (batch, num_anchors), dtype=torch.int32)
    if num_boxes == 0:
        matched.clamp_(max=-1)
    elif draw.chance(0.2) and matched.numel():
        matched.view(-1)[0] = draw.choice((num_boxes, 2**31 - 1, -(2**31)))
        draw.comparable, draw.refusable = False, True
    return [
        draw.levels(batch, shapes, 4, dtype), draw.boxes(num_anchors),
        draw.boxes(batch, num_boxes), matched, scalar(draw, dtype), scalar(draw, dtype),
        draw.choice((0.1, 1.0)), draw.chance(0.7),
    ]  # fmt: skip


def call_box_loss(
    deltas: Any, anchors: Any, boxes: Any, matched: Any, normalizer: Any, grad_scale: Any,
    delta: Any, need_grad: Any,
) -> None:  # fmt: skip
    """The public function, forward and backward."""
    from effdet.ops.box_loss import huber_box_loss

    deltas = [x.detach().requires_grad_(need_grad) for x in deltas]
    loss = huber_box_loss(
        deltas, anchors, boxes, matched, normalizer=normalizer, grad_scale=grad_scale, delta=delta
    )
    if loss.requires_grad:
        (2 * loss).backward()


def draw_assign(draw: Draw) -> list[Any]:
    """Arguments of ``assign_anchors``."""
    batch, num_boxes = draw.size(3), draw.size(40)
    labels = torch.randint(-2, 5, (batch, num_boxes))
    if draw.chance(0.1) and labels.numel():
        labels.view(-1)[0] = draw.choice((2**62, -(2**62), 2**31, -3))
        draw.comparable, draw.refusable = False, True
    return [
        draw.boxes(draw.size(700)), draw.boxes(batch, num_boxes), draw.layout(labels),
        draw.choice((0.0, 0.3, 0.5, 1.0)), draw.choice((0.0, 0.5, 1.0)),
    ]  # fmt: skip


def call_assign(
    anchors: Any, boxes: Any, labels: Any, foreground_iou: Any, crowd_overlap: Any
) -> None:
    """The public function."""
    from effdet.ops.assign import assign_anchors

    assign_anchors(
        anchors, boxes, labels, foreground_iou=foreground_iou, crowd_overlap=crowd_overlap
    )


def draw_select(draw: Draw) -> list[Any]:
    """Arguments of ``select_candidates``."""
    batch, num_classes = draw.size(3), draw.choice((1, 2, 4, 7, 20, 90))
    dtype, shapes = draw.choice(FLOATS), draw.level_shapes()
    num_anchors = sum(anchors * height * width for anchors, height, width in shapes)
    most = num_anchors * num_classes + 2
    exclude = [draw.randrange(num_classes) for _ in range(draw.choice((0, 0, 1, 3)))]
    return [
        draw.levels(batch, shapes, num_classes, dtype), draw.levels(batch, shapes, 4, dtype),
        draw.boxes(num_anchors), num_classes, draw.size(most, zero=0),
        draw.choice((0.0, 0.0, 0.05, 0.3)), exclude,
    ]  # fmt: skip


def call_select(
    cls_logits: Any, box_deltas: Any, anchors: Any, num_classes: Any, max_candidates: Any,
    score_threshold: Any, exclude: Any,
) -> None:  # fmt: skip
    """The public function."""
    from effdet.ops.select_candidates import select_candidates

    select_candidates(
        cls_logits, box_deltas, anchors, num_classes=num_classes, max_candidates=max_candidates,
        score_threshold=score_threshold, exclude=exclude,
    )  # fmt: skip


def draw_nms(draw: Draw) -> list[Any]:
    """Arguments of ``nms``."""
    batch, num_candidates = draw.size(3), draw.size(80)
    method = draw.choice(("hard", "linear", "gaussian"))
    scores = torch.rand(batch, num_candidates)
    if draw.chance(0.5):
        scores = scores.sort(1, descending=True).values
    if method == "hard" and draw.chance(0.3):  # equal scores; soft decay may split them
        scores = (scores * 4).round() / 4
    if draw.chance(0.1) and scores.numel():
        scores.view(-1)[0] = draw.choice(WILD)
        draw.comparable = method == "hard"
    labels = torch.randint(0, draw.choice((1, 5)), (batch, num_candidates))
    if draw.chance(0.1) and labels.numel():
        labels.view(-1)[0] = draw.choice((2**62, -(2**62)))
    boxes = draw.boxes(batch, num_candidates)
    draw.comparable &= method == "hard" or num_candidates < 20
    return [
        boxes, draw.layout(scores), draw.layout(labels), method,
        draw.choice((0.0, 0.3, 0.5, 1.0)), draw.choice((0.1, 0.5)), draw.choice((0.0, 0.001, 0.3)),
        draw.size(100, zero=0), draw.choice((0, 0, 1, 4)), draw.chance(0.3),
    ]  # fmt: skip


def call_nms(boxes: Any, scores: Any, labels: Any, *settings: Any) -> None:
    """The public function."""
    from effdet.ops.nms import nms

    names = (
        "method", "iou_threshold", "sigma", "score_threshold", "max_detections", "max_per_class",
        "class_agnostic",
    )  # fmt: skip
    nms(boxes, scores, labels, **dict(zip(names, settings, strict=True)))


OPERATORS = {
    "ema_update_": Operator(module="ema", draw=draw_ema, public=call_ema),
    "sigmoid_focal_loss": Operator(
        module="focal_loss", draw=draw_focal_loss, public=call_focal_loss, tolerance=1e-4
    ),
    "rescale_": Operator(module="rescale", draw=draw_rescale, public=call_rescale),
    "huber_box_loss": Operator(
        module="box_loss", draw=draw_box_loss, public=call_box_loss, tolerance=1e-4
    ),
    "assign_anchors": Operator(module="assign", draw=draw_assign, public=call_assign),
    "select_candidates": Operator(
        module="select_candidates", draw=draw_select, public=call_select, tolerance=1e-5
    ),
    "nms": Operator(module="nms", draw=draw_nms, public=call_nms, tolerance=1e-5),
}


# --- one case ---


def run_case(name: str, number: int, seed: int, counts: Counter[str]) -> None:
    """Draw and call; raises AssertionError where the result is not that of the definition."""
    operator, draw = OPERATORS[name], Draw(f"{seed} {name} {number}")
    arguments = operator.draw(draw)
    torch.set_num_threads(draw.choice((1, 1, 1, 2, 3)))
    is_spoilt = draw.chance(SPOIL_SHARE)
    if is_spoilt:
        at = draw.randrange(len(arguments))
        arguments[at] = draw.spoilt(arguments[at])
    compared = not is_spoilt and draw.comparable and number % COMPARE_EVERY == 0
    given = copy.deepcopy(arguments) if compared else None
    call = getattr(torch.ops.effdet, name)
    if not compared and draw.chance(0.3):
        call = operator.public
    try:
        result = call(*arguments)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
        if not is_spoilt and not draw.refusable:
            raise AssertionError("right arguments were refused") from error
        counts["refused"] += 1
        return
    if given is not None:
        reference = importlib.import_module(f"effdet.ops.{operator.module}").reference
        expected = reference(*given)
        compare((result, arguments), (expected, given), operator.tolerance)
        counts["compared"] += 1


def compare(found: Any, expected: Any, tolerance: float | None) -> None:
    """Assert equality of all tensors in two nested sequences."""
    if isinstance(found, Tensor):
        if tolerance is None or not found.is_floating_point():
            assert torch.equal(found.nan_to_num(), expected.nan_to_num())
            assert torch.equal(found.isnan(), expected.isnan())
            return
        if found.dtype in (torch.float16, torch.bfloat16):
            tolerance = 2e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(found, list | tuple):
        for a, b in zip(found, expected, strict=True):
            compare(a, b, tolerance)


# --- the worker: all cases in one process with the sanitizers ---


def work(options: argparse.Namespace) -> None:
    """Run the cases; the number of the current one is in the shared file ``options.progress``."""
    load_sanitized_kernels()
    names = options.operator or [name for name in OPERATORS if exists(name)]
    counts: Counter[str] = Counter()
    with options.progress.open("r+b") as file, mmap.mmap(file.fileno(), 64) as progress:
        for number in range(options.first, options.first + options.cases):
            name, case = names[number % len(names)], number // len(names)
            progress[:] = f"{name} {case}".encode().ljust(64)
            run_case(name, case, options.seed, counts)
            counts[name] += 1
    from effdet.ops import build_info

    print(json.dumps({"instruction_set": build_info()["instruction_set"], **counts}))


def load_sanitized_kernels() -> None:
    """Make the module in build/sanitize the ``effdet._C`` that effdet.ops finds."""
    (path,) = BUILD.glob("_C.*.so")
    content = path.read_bytes()
    assert b"__asan_report_load" in content, f"{path} is not built with EFFDET_SANITIZE=1"
    assert b"__ubsan_handle" in content
    import effdet

    spec = importlib.util.spec_from_file_location("effdet._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["effdet._C"] = module
    spec.loader.exec_module(module)
    effdet._C = module  # type: ignore[attr-defined]
    importlib.import_module("effdet.ops")


def exists(name: str) -> bool:
    """Whether the operator is there and has a kernel."""
    if importlib.util.find_spec(f"effdet.ops.{OPERATORS[name].module}") is None:
        return False
    importlib.import_module(f"effdet.ops.{OPERATORS[name].module}")
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"effdet::{name}", "CPU")


# --- the program ---


def main() -> None:
    """Run workers for the best and the least instruction set, and write the result."""
    options = parse()
    if options.worker:
        work(options)
        return
    start = time.monotonic()
    half = (options.cases + 1) // 2
    runs = [
        run_worker(options, "", options.first, half),
        run_worker(options, "baseline", options.first + half, options.cases - half),
    ]
    runs = [run for run in runs if run]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    measuring = importlib.import_module("measuring")
    found = {
        "command": f"make sanitize CASES={options.cases} SEED={options.seed}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": measuring.commit(),
        "machine": measuring.machine(),
        "sanitizers": "address, undefined, float-cast-overflow",
        "cases": options.cases,
        "seed": options.seed,
        "reports": 0,
        "seconds": round(time.monotonic() - start),
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if options.first == 0 and not options.operator:
        RESULT.write_text(json.dumps(found, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--operator", action="append", choices=list(OPERATORS))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_worker(
    options: argparse.Namespace, instruction_set: str, first: int, cases: int
) -> dict[str, Any]:
    """Run some cases in a process that starts with the sanitizers; exits where it fails."""
    if cases == 0:
        return {}
    with tempfile.NamedTemporaryFile() as progress:
        progress.write(b" " * 64)
        progress.flush()
        command = [
            sys.executable, __file__, "--worker", f"--progress={progress.name}",
            f"--cases={cases}", f"--seed={options.seed}", f"--first={first}",
            *(f"--operator={name}" for name in options.operator or ()),
        ]  # fmt: skip
        result = subprocess.run(
            command, cwd=ROOT, env=environment(instruction_set), stdout=subprocess.PIPE, text=True
        )
        if result.returncode != 0:
            name, case = Path(progress.name).read_text().split() or ("", "")
            sys.exit(
                f"{result.stdout}\nfailed with the {instruction_set or 'best'} kernels; again: "
                f"--seed {options.seed} --operator {name} --first {case} --cases 1"
            )
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def environment(instruction_set: str) -> dict[str, str]:
    """What a process with sanitizers needs: their libraries before all others."""
    compiler = os.environ.get("CXX", "g++").split()
    names = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    libraries = [
        subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    return os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        # Python keeps memory to its end; a size beyond all memory is an error to be handled.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "EFFDET_INSTRUCTION_SET": instruction_set,
        "PYTHONPATH": str(ROOT),
    }


if __name__ == "__main__":
    main()
