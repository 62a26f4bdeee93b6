# SPDX-License-Identifier: Apache-2.0
"""Generated calls of the CUDA kernels, run on the CPU by tests/cuda_shim, against the definitions.

Under the sanitizers as tests/cuda_shim says. The arguments are those of operator_table.py, copied
where the operators' host code copies them: contiguous, at multiples of 16 bytes. It also ends calls
without elements, which are left out.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda_shim import Library, build
from tests.fuzz.draw import Draw
from tests.fuzz.operator_case import compare, definition
from tests.fuzz.operator_table import OPERATORS
from tests.ops import (
    test_cuda_host_assign,
    test_cuda_host_box_loss,
    test_cuda_host_ema,
    test_cuda_host_focal_loss,
    test_cuda_host_nms,
    test_cuda_host_rescale,
    test_cuda_host_select_candidates,
)

pytestmark = pytest.mark.slow
SEED = 6
CASES = 300
LAYOUTS = (torch.contiguous_format, torch.channels_last)
Pair = tuple[Any, Any]
"""What the kernel gives and what the definition gives."""


def as_levels(levels: list[Tensor], channels_last: bool) -> list[Tensor]:
    return [aligned(x.contiguous(memory_format=LAYOUTS[channels_last])) for x in levels]


def aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % 16 == 0 else x.clone()


def dense(values: list[Any]) -> list[Any]:
    return [aligned(x.contiguous()) if isinstance(x, Tensor) else x for x in values]


def assign(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    given = dense(given)
    return test_cuda_host_assign.assign(kernels, *given), reference(*given)


def nms(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    given = dense(given)
    settings = dict(zip(test_cuda_host_nms.SETTINGS, given[3:], strict=True))
    found = test_cuda_host_nms.nms(kernels, *given[:3], draw.chance(0.5), **settings)
    return found, reference(*given)


def select(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    logits, deltas, anchors, *settings = given
    arguments = [
        as_levels([x.float() if x.dtype == torch.float64 else x for x in levels], draw.chance(0.5))
        for levels in (logits, deltas)
    ]
    limits = {"sort_in_shared": draw.chance(0.5), "max_blocks": draw.randint(1, 5)}
    found = test_cuda_host_select_candidates.select(
        kernels, *arguments, *dense([anchors]), *settings, **limits
    )
    return found, reference(*arguments, anchors, *settings)


def focal_loss(
    kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]
) -> Pair:
    last = draw.chance(0.5)
    levels, targets = as_levels(given[0], last), given[1].contiguous()
    normalizer, scale, num_classes, _, gamma, smoothing, need_grad = given[2:]
    found = test_cuda_host_focal_loss.kernel_result(
        kernels, levels, targets, num_classes, last, gamma, smoothing, normalizer.item(),
        scale.item(), need_grad,
    )  # fmt: skip
    settings = (num_classes, 0.25, gamma, smoothing, need_grad)
    expected = reference(levels, targets, normalizer, scale, *settings)
    return (found[0], found[1] if need_grad else []), expected


def box_loss(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    last = draw.chance(0.5)
    deltas, (anchors, boxes, matched) = as_levels(given[0], last), dense(given[1:4])
    delta, need_grad = given[6:]
    example = (deltas, anchors, boxes, matched)
    found = test_cuda_host_box_loss.kernel_result(kernels, example, last, delta, need_grad)
    scalars = (torch.full_like(given[4], 3.0), torch.full_like(given[5], 5.0))
    expected = reference(*example, *scalars, delta, need_grad)
    return (found[0], found[1] if need_grad else []), expected


def rescale(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    gradients, output, scale = dense(given[0]), given[1], given[2]
    expected = [x.clone() for x in gradients]
    reference(expected, output, scale)
    test_cuda_host_rescale.rescale(kernels, gradients, output.item(), scale.item())
    return gradients, expected


def ema(kernels: Library, draw: Draw, given: list[Any], reference: Callable[..., Any]) -> Pair:
    averages, values, updates, found_inf, decay, joined = given
    if joined:
        averages = [torch.zeros(v.shape, dtype=average_dtype(v)) for v in values]
    known = test_cuda_host_ema.KINDS
    pairs = [(a, v) for a, v in zip(averages, values, strict=True) if v.dtype in known]
    ours, values = dense([a for a, _ in pairs]), dense([v for _, v in pairs])
    theirs, counted = [x.clone() for x in ours], updates.clone()
    test_cuda_host_ema.update(kernels, ours, values, updates, found_inf, decay)
    reference(theirs, values, counted, found_inf, decay)
    return (ours, updates[0]), (theirs, counted[0])


def average_dtype(value: Tensor) -> torch.dtype:
    is_short = value.is_floating_point() and value.dtype != torch.float64
    return torch.float32 if is_short else value.dtype


KERNELS: dict[str, tuple[ModuleType, Callable[..., Pair]]] = {
    "assign_anchors": (test_cuda_host_assign, assign),
    "nms": (test_cuda_host_nms, nms),
    "select_candidates": (test_cuda_host_select_candidates, select),
    "sigmoid_focal_loss": (test_cuda_host_focal_loss, focal_loss),
    "huber_box_loss": (test_cuda_host_box_loss, box_loss),
    "rescale_": (test_cuda_host_rescale, rescale),
    "ema_update_": (test_cuda_host_ema, ema),
}


def has_elements(given: list[Any]) -> bool:
    tensors = [x for x in given if isinstance(x, Tensor)]
    tensors += [x for levels in given if isinstance(levels, list) for x in levels]
    return all(x.numel() for x in tensors if isinstance(x, Tensor))


@pytest.mark.parametrize("name", OPERATORS)
def test_generated_calls_give_what_the_definitions_give(name: str, tmp_path: Path) -> None:
    module, run = KERNELS[name]
    kernels, compared = build(module.SOURCE, tmp_path), 0
    for number in range(CASES):
        draw = Draw(f"{SEED} {name} {number}")
        given = OPERATORS[name].draw(draw)
        if not has_elements(given):
            continue
        kernels.schedule(draw.randrange(10))
        found, expected = run(kernels, draw, given, definition(OPERATORS[name]))
        if draw.comparable:
            try:
                compare(found, expected, OPERATORS[name].tolerance)
            except AssertionError as error:
                pytest.fail(f"case {number} of seed {SEED}: {error}")
            compared += 1
    print(f"{CASES} cases, seed {SEED}: {compared} compared")
    assert compared > CASES * 0.3
