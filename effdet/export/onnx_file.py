# SPDX-License-Identifier: Apache-2.0
"""ONNX files: one file with everything inside, and reading one of anybody."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet.errors import ExportError, WeightsError, one_line, printable
from effdet.export.info import INPUT, KEY, OUTPUTS, ExportInfo
from effdet.extras import import_extra
from effdet.files.regular import open_regular

MAX_BYTES = 2**31 - 1
"""More than that no protobuf message holds."""

Runner = Callable[[Tensor], tuple[Tensor, ...]]
"""Images ``[B, 3, H, W]`` float32 on the CPU, contiguous, to the outputs of the file."""

WHAT = "running an ONNX file"


def onnx_content(model: Any, info: ExportInfo) -> bytes:
    """``model``, an ``onnx.ModelProto``, with ``info`` inside, as the bytes of a file.

    Raises:
        ExportError: where ONNX's own checker refuses the graph, or it is too large for one file.
    """
    onnx = import_extra("onnx", "onnx", "export to ONNX", ExportError)
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=info.to_text())
    if model.ByteSize() > MAX_BYTES:
        raise ExportError(f"the graph has {model.ByteSize():,} bytes; an ONNX file holds 2 GB")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and the shape inference have kinds of their own
        raise ExportError(f"the ONNX graph is not sound: {one_line(error)}") from error
    content: bytes = model.SerializeToString()
    return content


def read_onnx(path: Path) -> tuple[bytes, ExportInfo]:
    """The bytes of an ONNX file of this toolkit, and what it says of itself.

    Raises:
        WeightsError: for a file that is missing, damaged, of another program, or that names other
            files to be read with it.
        ExportError: where the package ``onnx`` is missing.
    """
    onnx = import_extra("onnx", "onnx", WHAT, ExportError)
    name = printable(str(path))
    with open_regular(path, "ONNX file", WeightsError, MAX_BYTES) as file:
        content = file.read()
    if not content:
        raise WeightsError(f"{name}: an empty file, expected an ONNX file; copy it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError
        raise WeightsError(f"{name}: damaged, or no ONNX file") from error
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) != 1:
        raise WeightsError(
            f"{name}: an ONNX file, but not one that `effdet export` wrote (no {KEY!r} in its "
            "metadata)"
        )
    for tensor in _tensors(model):
        if tensor.data_location != tensor.DEFAULT or tensor.external_data:
            raise WeightsError(f"{name}: has tensors in other files, which are not opened")
    return content, ExportInfo.from_text(texts[0], path)


def onnx_runner(path: Path) -> tuple[Runner, ExportInfo]:
    """A function that runs the file on onnxruntime with as many threads as torch has.

    Raises:
        WeightsError: as :func:`read_onnx`, and where onnxruntime refuses the graph.
        ExportError: where a package is missing.
    """
    runtime = import_extra("onnxruntime", "onnx", WHAT, ExportError)
    content, info = read_onnx(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common kind
        raise WeightsError(f"{printable(str(path))}: onnxruntime: {one_line(error)}") from error
    names = list(OUTPUTS[info.outputs])
    if sorted(o.name for o in session.get_outputs()) != sorted(names):
        raise WeightsError(f"{printable(str(path))}: expected the outputs {', '.join(names)}")

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = session.run(names, {INPUT: images.numpy()})
        return tuple(torch.from_numpy(np.asarray(values)) for values in found)

    return run, info


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto in a message, in whatever graph, function or attribute."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            repeated = hasattr(value, "__len__") and not hasattr(value, "DESCRIPTOR")
            for item in value if repeated else (value,):
                yield from _tensors(item)
