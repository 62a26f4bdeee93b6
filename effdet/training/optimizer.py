# SPDX-License-Identifier: Apache-2.0
"""The optimizers, with weight decay on kernels only."""

import torch
from torch import nn

from effdet.config import Optimizer


def build_optimizer(
    model: nn.Module, *, kind: Optimizer = "sgd", lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer that decays kernels, but no norms, biases or fusion weights.

    Args:
        model: whose trainable parameters to optimize.
        kind: ``sgd`` (with momentum, not Nesterov's: the reference's) or ``adamw``.
        lr: learning rate of the first step; a schedule changes it.
        momentum: of the velocity; AdamW's first beta.
        weight_decay: L2 decay of SGD (part of the gradient), decoupled decay of AdamW.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    # Fused, found_inf of the loss scaler stays on the GPU: no waiting for it in every step.
    fused = all(p.is_cuda for p in parameters)
    if kind == "adamw":
        betas = (momentum, 0.999)
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused, foreach=not fused)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused, foreach=not fused)
