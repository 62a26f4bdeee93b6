# SPDX-License-Identifier: Apache-2.0
"""Two training steps with batch norm over groups of processes, written to a file.

torchrun --nproc-per-node N tests/training/sync_bn_processes.py OUTPUT PROCESSES IMAGES...

IMAGES: of each rank. OUTPUT holds a list over ranks.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from effdet import distributed
from effdet.training.batch_size import smallest_of_all
from effdet.training.sync_bn import synchronize_batch_norm

CPU = torch.device("cpu")


def build() -> nn.Module:
    """Two convolutions, each with a batch norm, the second without weights; in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6, eps=1e-3, momentum=0.01),
        nn.SiLU(),
        nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)),
    )
    nn.init.normal_(model[1].weight)
    return model.double()


def images_of(first: int, last: int) -> Tensor:
    """Images number ``first`` to ``last - 1`` of an endless set, far from zero mean."""
    numbered = (torch.Generator().manual_seed(number) for number in range(first, last))
    images = [10 + torch.randn(3, 8, 8, generator=generator) for generator in numbered]
    return (torch.stack(images) if images else torch.empty(0, 3, 8, 8)).double()


def two_steps(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Outputs, gradients and buffers after two forward and backward passes."""
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    for _ in range(2):
        outputs = model(images)
        ((outputs - 1).pow(3) * images[:, :1, 1:-1, 1:-1]).sum().backward()
    bare = getattr(model, "module", model)
    return {
        "outputs": outputs.detach(),
        "image_gradients": images.grad,
        "gradients": {name: p.grad for name, p in bare.named_parameters()},
        "buffers": {name: buffer.clone() for name, buffer in bare.named_buffers()},
        "channels_last": outputs.is_contiguous(memory_format=torch.channels_last),
    }


def main(output: str, processes: str, *counts: str) -> None:
    """Compute and write."""
    rank, sizes = distributed.rank(), [int(count) for count in counts]
    first = sum(sizes[:rank])
    model = build()
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    same = synchronize_batch_norm(model, "all" if processes == "all" else int(processes), CPU)
    after = {name: id(tensor) for name, tensor in same.state_dict(keep_vars=True).items()}
    assert same is model
    assert list(before.items()) == list(after.items())
    results = two_steps(model, images_of(first, first + sizes[rank]))

    wrapped = synchronize_batch_norm(build(), "all", CPU)
    results["wrapped"] = two_steps(
        distributed.wrap(wrapped, CPU), images_of(first, first + sizes[rank])
    )
    results["smallest"] = smallest_of_all(10 + rank, CPU)
    try:
        synchronize_batch_norm(build(), 3, CPU)
    except ValueError as error:
        results["error"] = str(error)
    everyones = distributed.gather_to_main(results)
    if everyones is not None:
        torch.save(everyones, output)


if __name__ == "__main__":
    with distributed.process_group(CPU):
        main(*sys.argv[1:])
