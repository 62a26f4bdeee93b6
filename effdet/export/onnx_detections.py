# SPDX-License-Identifier: Apache-2.0
"""Post-processing inside an ONNX graph, of standard operators only: TopK and NonMaxSuppression.

What :mod:`effdet.postprocess` does with hard suppression, up to the pixels of the network input:
the size of the original image is not known inside.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.export.info import OUTPUTS, ExportInfo, num_candidates, shapes_of

REMOVED = -1.0
"""Score of what cannot be picked; those that can are above 0."""


def add_detections(model: Any, info: ExportInfo) -> None:
    """Replace the outputs of a raw graph by detections.

    ``boxes [B, D, 4]`` xyxy in pixels of the input, ``scores [B, D]`` falling, ``labels [B, D]``
    int64, and ``counts [B]`` int64: how many of the D rows are used. Unused ones hold 0, and -1 as
    label.

    Args:
        model: an ``onnx.ModelProto`` of :func:`effdet.export.onnx_graph.program_to_onnx`.
        info: says what is put inside.
    """
    _rename(model.graph, "boxes", "all_boxes")
    num_anchors = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph = _Graph(model.graph)
    boxes, scores, labels = _candidates(graph, info, num_anchors)
    kept = _suppress(graph, info, boxes, scores, labels)
    _pick(graph, info, num_anchors, kept, boxes, labels)


class _Graph:
    """Adds nodes and constants under names of their own."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.count = 0

    def add(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """A node; returns the name of its first output."""
        from onnx import helper

        names = list(outputs) or [self._name(op)]
        self.graph.node.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def top(self, values: str, count: int) -> tuple[str, str]:
        """The ``count`` highest of each row ``[B, N]`` and their places, equal ones by place."""
        names = [self._name("TopKValues"), self._name("TopKPlaces")]
        self.add("TopK", values, self.ints(count), outputs=names, axis=1)
        return names[0], names[1]

    def rows(self, values: str, places: str) -> str:
        """Of ``[B, N, ...]`` what stands at ``places [B, M]``: ``[B, M, ...]``."""
        index = self.add("Unsqueeze", places, self.ints(2))
        return self.add("GatherND", values, index, batch_dims=1)

    def ints(self, *values: int) -> str:
        """A constant ``[len(values)]`` int64."""
        return self.constant(np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """A constant of no dimensions, float32."""
        return self.constant(np.array(value, dtype=np.float32))

    def constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _name(self, what: str) -> str:
        self.count += 1
        return f"detections/{what}_{self.count}"


def _candidates(graph: _Graph, info: ExportInfo, num_anchors: int) -> tuple[str, str, str]:
    """Boxes ``[B, C, 4]``, scores ``[B, C]`` and labels ``[B, C]`` of the best pairs.

    They lie on the anchors with the best maxima, so classes are ranked only there; labels are
    places among the named classes.
    """
    named, config = info.class_map.named, info.postprocess
    logits = "cls_logits"
    if len(named) < len(info.class_map):
        logits = graph.add("Gather", logits, graph.ints(*named), axis=2)
    best = graph.add("ReduceMax", logits, graph.ints(2), keepdims=0)
    _, anchors = graph.top(best, min(config.max_candidates, num_anchors))
    rows = graph.add("Reshape", graph.rows(logits, anchors), graph.ints(0, -1))
    values, pairs = graph.top(rows, num_candidates(info, num_anchors))
    classes = graph.ints(len(named))
    places = graph.add("Div", pairs, classes)
    boxes = graph.rows(graph.rows("all_boxes", anchors), places)
    scores = graph.add("Sigmoid", values)
    above = graph.add("Greater", scores, graph.number(config.score_threshold))
    return (
        boxes,
        graph.add("Where", above, scores, graph.number(REMOVED)),
        graph.add("Mod", pairs, classes),
    )


def _suppress(graph: _Graph, info: ExportInfo, boxes: str, scores: str, labels: str) -> str:
    """Scores ``[B, C]`` of what hard suppression leaves, -1 for the rest."""
    config = info.postprocess
    of_classes = graph.add("Unsqueeze", scores, graph.ints(1))  # [B, 1, C]
    if not config.class_agnostic:
        classes = np.arange(len(info.class_map.named), dtype=np.int64)[None, :, None]
        label = graph.add("Unsqueeze", labels, graph.ints(1))
        belongs = graph.add("Equal", label, graph.constant(classes))  # [B, K, C]
        of_classes = graph.add("Where", belongs, of_classes, graph.number(REMOVED))
    most = min(config.max_per_class or config.max_detections, config.max_detections)
    selected = graph.add(
        "NonMaxSuppression",
        boxes,
        of_classes,
        graph.ints(most),
        graph.constant(np.array([config.iou_threshold], dtype=np.float32)),
        graph.constant(np.array([0], dtype=np.float32)),
    )  # [M, 3]: image, class, candidate
    places = graph.add("Gather", selected, graph.ints(0, 2), axis=1)
    removed = graph.add("Expand", graph.number(REMOVED), graph.add("Shape", scores))
    left = graph.add("GatherND", scores, places)
    return graph.add("ScatterND", removed, places, left)


def _pick(
    graph: _Graph, info: ExportInfo, num_anchors: int, kept: str, boxes: str, labels: str
) -> None:
    """The best D of what is left become the outputs."""
    from onnx import TensorProto, helper

    shapes = shapes_of(info, num_anchors)
    scores, picks = graph.top(kept, int(shapes["scores"][1]))
    used = graph.add("Greater", scores, graph.number(0))
    graph.add("Where", used, scores, graph.number(0), outputs=["scores"])
    column = graph.add("Unsqueeze", used, graph.ints(2))
    graph.add("Where", column, graph.rows(boxes, picks), graph.number(0), outputs=["boxes"])
    label = graph.rows(labels, picks)
    if len(info.class_map.named) < len(info.class_map):
        label = graph.add("Gather", graph.ints(*info.class_map.named), label)
    nothing = graph.constant(np.array(-1, dtype=np.int64))
    graph.add("Where", used, label, nothing, outputs=["labels"])
    number = graph.add("Cast", used, to=TensorProto.INT64)
    graph.add("ReduceSum", number, graph.ints(1), outputs=["counts"], keepdims=0)
    del graph.graph.output[:]
    for name in OUTPUTS["detections"]:
        whole = name in ("labels", "counts")
        kind = TensorProto.INT64 if whole else TensorProto.FLOAT
        graph.graph.output.append(helper.make_tensor_value_info(name, kind, shapes[name]))


def _rename(graph: Any, old: str, new: str) -> None:
    """Another name for a value, wherever it stands."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in (*graph.value_info, *graph.output):
        if value.name == old:
            value.name = new
