# SPDX-License-Identifier: Apache-2.0
"""The optimizers, with weight decay on kernels only, and a step that may be skipped."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer as TorchOptimizer

from effdet.settings import Optimizer


def build_optimizer(
    model: nn.Module,
    *,
    kind: Optimizer = "sgd",
    lr: float,
    momentum: float,
    weight_decay: float,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> TorchOptimizer:
    """An optimizer that decays kernels, but no norms, biases or fusion weights.

    It is fused where all parameters are float32 on a CPU or GPU: :func:`step_unless` then never
    waits for the device. The saved state of another device or version can be loaded into it.

    Args:
        model: whose trainable parameters to optimize, on the device where they stay.
        kind: ``sgd`` (with momentum, not Nesterov's: the reference's) or ``adamw``.
        lr: learning rate of the first step; a schedule changes it.
        momentum: of the velocity; AdamW's first beta.
        weight_decay: L2 decay of SGD (part of the gradient), decoupled decay of AdamW.
        factors: on the learning rate of the parameters of these names; ``lr_factor`` of the groups.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]] = []
    for factor in sorted({factors.get(name, 1.0) for name in parameters}, reverse=True):
        equal = [p for name, p in parameters.items() if factors.get(name, 1.0) == factor]
        groups += [
            {"params": [p for p in equal if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in equal if p.dim() <= 1], "weight_decay": 0.0},
        ]
        for group in groups[-2:]:
            group |= {"lr": lr * factor, "lr_factor": factor}
    rate_factors = [group["lr_factor"] for group in groups]
    fused = can_be_fused(parameters.values())
    optimizer: TorchOptimizer
    if kind == "adamw":
        betas = (momentum, 0.999)
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused, foreach=not fused)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=lr, momentum=momentum, fused=fused, foreach=not fused
        )

    def after_loading(optimizer: TorchOptimizer) -> None:
        # The state also brings the flags of the optimizer that it was saved from.
        for group, factor in zip(optimizer.param_groups, rate_factors, strict=True):
            group["fused"], group["foreach"] = fused, not fused
            group["lr_factor"] = factor
        renew_state(optimizer)

    renew_state(optimizer)
    optimizer.register_load_state_dict_post_hook(after_loading)
    return optimizer


def can_be_fused(parameters: Iterable[Tensor]) -> bool:
    """Whether torch has a fused step for ``parameters``: float32, on CPUs or GPUs."""
    return all(p.dtype == torch.float32 and p.device.type in ("cpu", "cuda") for p in parameters)


def step_unless(optimizer: TorchOptimizer, found_inf: Tensor) -> None:
    """One step of ``optimizer``, or none at all where ``found_inf`` is not 0.

    A skipped step leaves weights and state as they are. Gradients must have the strides of their
    weights, as those that autograd makes: torch's fused steps do not look.

    Args:
        optimizer: one of :func:`build_optimizer`.
        found_inf: one float32, 0 or 1, on the device of the parameters. The fused optimizers read
            it there; for others the host waits for it.
    """
    if all(group["fused"] for group in optimizer.param_groups):
        # The two attributes by which torch.amp.GradScaler tells a fused step what to do.
        told: Any = optimizer  # which has no types for them
        told.grad_scale, told.found_inf = None, found_inf
        try:
            optimizer.step()
        finally:
            del told.grad_scale, told.found_inf
    elif not found_inf.item():
        optimizer.step()


def renew_state(optimizer: TorchOptimizer) -> None:
    """Fit the state to what learns: none for frozen parameters, a velocity of 0 where SGD has none.

    torch makes the velocity in the first step from uninitialised memory, which stays as it is where
    that step is skipped. The first step from 0 gives the same numbers as torch's.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)
            elif isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
