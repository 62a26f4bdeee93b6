# SPDX-License-Identifier: Apache-2.0
"""From a program of ``torch.export`` to an ONNX graph that every runtime understands."""

import contextlib
import io
import warnings
from typing import Any

import torch

from effdet.errors import ExportError
from effdet.export.info import INPUT, OUTPUTS
from effdet.extras import import_extra

WHAT = "export to ONNX"


def program_to_onnx(program: torch.export.ExportedProgram, opset: int) -> Any:
    """An ``onnx.ModelProto`` with the outputs ``cls_logits`` and ``boxes``.

    Raises:
        ExportError: where a package is missing or the graph cannot be written in ``opset``.
    """
    onnx = import_extra("onnx", "onnx", WHAT, ExportError)
    import_extra("onnxscript", "onnx", WHAT, ExportError)
    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(OUTPUTS["raw"]),
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    found = next(entry.version for entry in model.opset_import if entry.domain == "")
    if found != opset:
        raise ExportError(f"the graph cannot be written in opset {opset}; give --opset {found}")
    _remove_traces(model)
    _name_batch(model)
    model = onnx.shape_inference.infer_shapes(model)
    _pad_explicitly(model)
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the exporter's reports of its own steps."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _remove_traces(model: Any) -> None:
    """Take out what the exporter notes for itself: among it the paths of source files."""
    graph = model.graph
    for entry in (
        model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output,
        *graph.value_info,
    ):  # fmt: skip
        del entry.metadata_props[:]
        entry.doc_string = ""
    model.producer_name = "effdet"


def _name_batch(model: Any) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "batch"
    del model.graph.value_info[:]  # inferred anew, with that name


def _pad_explicitly(model: Any) -> None:
    """Give max-pooling the padding behind that ``ceil_mode`` stands for.

    The same values, but runtimes differ in how they take ``ceil_mode``: OpenVINO 2026.4 refuses a
    window that is larger than the map it slides on, as those of the coarsest levels are.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    for node in model.graph.node:
        values = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "MaxPool" and values["ceil_mode"].i:
            sides = [dim.dim_value for dim in shapes[node.input[0]][2:]]
            kernel, stride = values["kernel_shape"].ints, values["strides"].ints
            pads = values["pads"].ints
            for axis, side in enumerate(sides):
                pads[axis + 2] = _behind(side, kernel[axis], stride[axis], pads[axis])
            values["ceil_mode"].i = 0


def _behind(side: int, kernel: int, stride: int, before: int) -> int:
    """Padding behind a ``side`` so that windows reach its last value, and none begins after it."""
    windows = -(-(side + 2 * before - kernel) // stride) + 1
    if (windows - 1) * stride >= side + before:
        windows -= 1
    return max((windows - 1) * stride + kernel - side - before, 0)
