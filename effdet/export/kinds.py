# SPDX-License-Identifier: Apache-2.0
"""Kinds of exported files: by the ends of their names, with what reads and what runs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet.errors import UsageError, WeightsError
from effdet.export.info import ExportInfo
from effdet.export.onnx_file import Runner, onnx_runner, read_onnx
from effdet.export.openvino_file import openvino_runner, read_openvino
from effdet.export.programs import program_runner, read_program_info
from effdet.settings import ExportFormat

ENDINGS: dict[ExportFormat, str] = {
    "onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "aoti": ".pt2",
}  # fmt: skip
"""The end of the name of a file of each format."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Exported files whose names end alike.

    Attributes:
        runtime: what runs them.
        read: gives the name of the form, and what the file says of itself; nothing is run.
        run: opens a file, ``trust_code`` or not.
        is_code: whether to load one is to run what is in it.
        beside: end of the name of the other file that belongs to it; empty where there is none.
    """

    runtime: str
    read: Callable[[Path], tuple[str, ExportInfo]]
    run: Callable[[Path, bool], tuple[Runner, ExportInfo]]
    is_code: bool = False
    beside: str = ""


_PROGRAMS = {"torch-export": "program of torch.export", "aoti": "package of AOTInductor"}


def _read_program(path: Path) -> tuple[str, ExportInfo]:
    form, info = read_program_info(path)
    return _PROGRAMS[form], info


_KINDS = {
    ".onnx": Kind(
        runtime="onnxruntime",
        read=lambda path: ("ONNX", read_onnx(path)[1]),
        run=lambda path, _: onnx_runner(path),
    ),
    ".xml": Kind(
        runtime="OpenVINO",
        read=lambda path: ("OpenVINO", read_openvino(path)[2]),
        run=lambda path, _: openvino_runner(path),
        beside=".bin",
    ),
    ".pt2": Kind(
        runtime="torch .pt2",
        read=_read_program,
        run=lambda path, trust_code: program_runner(path, trust_code=trust_code),
        is_code=True,
    ),
}


def is_exported(weights: str | Path) -> bool:
    """Whether a name is one of an exported file."""
    return Path(weights).suffix.lower() in _KINDS


def kind_of(path: Path) -> Kind:
    """The kind of an exported file.

    Raises:
        WeightsError: where its name ends as that of none.
    """
    if not is_exported(path):
        raise WeightsError(f"{path}: exported files end in {', '.join(_KINDS)}")
    return _KINDS[path.suffix.lower()]


def typed(weights: str | Path) -> list[str]:
    """The words that name weights in a command: of a file that is code, that it is trusted too."""
    path = Path(weights)
    is_code = is_exported(path) and kind_of(path).is_code
    return [str(weights), "--trust-code"] if is_code else [str(weights)]


def refuse_trust(weights: Sequence[str], trust_code: bool) -> None:
    """Refuse ``--trust-code`` where no file is code.

    Raises:
        UsageError: naming the files.
    """
    if trust_code and not any(
        is_exported(name) and kind_of(Path(name)).is_code for name in weights
    ):
        raise UsageError(
            f"{', '.join(weights)}: --trust-code is for a .pt2 and does nothing here; leave it out"
        )


def files_of(weights: Path) -> tuple[Path, ...]:
    """The file, and where its kind has one the other that belongs to it."""
    beside = kind_of(weights).beside if is_exported(weights) else ""
    return (weights, weights.with_suffix(beside)) if beside else (weights,)
