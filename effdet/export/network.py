# SPDX-License-Identifier: Apache-2.0
"""The network as it is deployed: from images to logits and boxes, with no anchors to be known."""

import torch
from torch import Tensor, nn

from effdet.anchors import build_anchors
from effdet.boxes import decode_boxes
from effdet.config import ModelConfig
from effdet.levels import flatten_levels
from effdet.ops.select_candidates import MAX_LOG_RATIO


class DeployedNetwork(nn.Module):
    """A detector whose boxes are decoded, as one row an anchor.

    Args:
        model: images to the logits and deltas of each level; put into evaluation mode, the usual
            memory format, and out of place.
        config: its size and anchors.
    """

    anchors: Tensor

    def __init__(self, model: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.model = model.eval()
        self.num_classes = config.num_classes
        self.register_buffer("anchors", build_anchors(config), persistent=False)
        self.eval().to(memory_format=torch.contiguous_format)
        for module in self.modules():
            if isinstance(module, nn.ReLU6):
                # torch.onnx.export takes apart each ReLU6 in place, which took 4/5 of its time;
                # out of place ONNX knows it as it is.
                module.inplace = False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images to what is on them.

        Args:
            images: ``[B, 3, H, W]`` of the one size that the anchors are for.

        Returns:
            Class logits ``[B, A, K]`` and xyxy boxes ``[B, A, 4]`` in pixels of the input.
        """
        cls_logits, box_deltas = self.model(images)
        deltas = flatten_levels(box_deltas, 4)
        deltas = torch.cat([deltas[..., :2], deltas[..., 2:].clamp(max=MAX_LOG_RATIO)], -1)
        logits = flatten_levels(cls_logits, self.num_classes)
        return logits, decode_boxes(deltas, self.anchors)


def to_program(
    network: DeployedNetwork, image_size: tuple[int, int], batch: int | None
) -> torch.export.ExportedProgram:
    """The graph of ``network`` for images of one size, and any number of them if ``batch`` is None.

    Where this machine keeps the source files does not stay in it.
    """
    images = torch.zeros(batch or 2, 3, *image_size)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}} if batch is None else None
    with torch.no_grad():
        program = torch.export.export(network, (images,), dynamic_shapes=dynamic)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                node.meta.pop(key, None)
    return program
