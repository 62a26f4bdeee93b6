# SPDX-License-Identifier: Apache-2.0
"""SGD as the reference uses it."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD with momentum that decays kernels only, not norms, biases or fusion weights.

    Args:
        model: whose trainable parameters to optimize.
        lr: learning rate of the first step; a schedule changes it.
        momentum: of the velocity, not Nesterov's.
        weight_decay: L2 decay.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    kernels = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, foreach=True)
