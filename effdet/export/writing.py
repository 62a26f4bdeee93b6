# SPDX-License-Identifier: Apache-2.0
"""``effdet export``: from weights to a file that is checked, and only then has its name."""

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet.config import size_pair
from effdet.counts import counted
from effdet.errors import ExportError, UsageError
from effdet.export.checking import (
    Check,
    check_file,
    check_inputs,
    find_images,
    first_readable,
    judge,
)
from effdet.export.info import ExportInfo, shapes_of
from effdet.export.kinds import ENDINGS, files_of, is_exported
from effdet.export.network import DeployedNetwork, to_program
from effdet.export.onnx_detections import add_detections
from effdet.export.onnx_file import onnx_content
from effdet.export.onnx_graph import program_to_onnx
from effdet.export.openvino_file import import_openvino, save_openvino
from effdet.export.programs import check_compiler, save_package, save_program
from effdet.export.running import open_exported
from effdet.extras import import_extra
from effdet.files import check_name, short_path, write_atomically
from effdet.settings import FOR_PEOPLE, ExportConfig
from effdet.weights import Checkpoint, load_detector, load_model
from effdet.weights.digest import sha256_of
from effdet.weights.download import resolve


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: the file, and where the format has one the other that belongs to it.
        info: what it says of itself.
        shapes: of the input and the outputs, by name.
        size: bytes of all files.
        check: what the check found.
        images: that it was made on; none where pictures were drawn.
    """

    files: tuple[Path, ...]
    info: ExportInfo
    shapes: dict[str, tuple[int | str, ...]]
    size: int
    check: Check
    images: tuple[Path, ...]


def export(config: ExportConfig, *, images: Sequence[Path] = ()) -> Exported:
    """Write the file that ``config`` asks for.

    Args:
        config: what to write.
        images: of which the first that can be read are to check the file on where
            ``config.check_images`` names none, such as those that the model was validated on;
            pictures are drawn where there are none either.

    Raises:
        UsageError: where the file is there already, or has the wrong ending.
        WeightsError: for weights that cannot be read.
        ExportError: where a package or compiler is missing, or the file does not give what
            PyTorch gives.
        WriteError: with the system's reason.
    """
    outputs = output_files(config)
    check_packages(config)
    checkpoint = load_detector(config.weights, use_ema=config.use_ema)
    info = build_info(config, checkpoint)
    named = config.check_images
    count = config.check_count
    checked = find_images(named)[:count] if named else first_readable(images, count)
    inputs = check_inputs(info, checked, count)
    pictures = _pictures(checked, named, count)
    model = load_model(checkpoint, config.weights, use_ema=config.use_ema, channels_last=False)
    network = DeployedNetwork(model, info.model_config)
    # In the system's place for what is left by a killed process.
    with tempfile.TemporaryDirectory(prefix="effdet-export-") as name:
        folder = Path(name)
        path = folder / outputs[0].name
        write(network, info, config, path)
        exported = open_exported(path, trust_code=True)  # it was written a moment ago, here
        found = check_file(
            network, exported, inputs, pictures, config.box_tolerance, config.score_tolerance
        )
        judge(found, config.box_tolerance, config.score_tolerance)
        for output in reversed(outputs):  # the one that names the other comes last
            _move(folder / output.name, output)
    return Exported(
        files=outputs,
        info=info,
        shapes=shapes_of(info, len(network.anchors)),
        size=sum(file.stat().st_size for file in outputs),
        check=found,
        images=tuple(checked),
    )


def _pictures(images: Sequence[Path], named: str | None, count: int) -> str:
    """In words what a file is checked on."""
    if not images:
        return counted(count, "drawn picture")
    return f"{counted(len(images), 'image')} of {named or short_path(images[0].parent)}"


def write(network: DeployedNetwork, info: ExportInfo, config: ExportConfig, path: Path) -> None:
    """Write ``network`` as ``path``, in the format that is wanted."""
    program = to_program(network, info.model_config.image_size, info.batch)
    if config.format == "torch-export":
        save_program(program, info, path)
    elif config.format == "aoti":
        save_package(program, info, path)
    else:
        model = program_to_onnx(program, config.opset)
        if info.has_detections:
            add_detections(model, info)
        content = onnx_content(model, info)
        if config.format == "onnx":
            path.write_bytes(content)
        else:
            save_openvino(content, info, path)


def output_files(config: ExportConfig) -> tuple[Path, ...]:
    """The files that will be written; refused if they are there, unless they may be replaced.

    Raises:
        UsageError: naming the file, or weights that are an exported file.
    """
    if is_exported(config.weights) and Path(config.weights).exists():
        raise UsageError(
            f"{config.weights}: is an exported file already; export the weights it was made of"
        )
    ending = ENDINGS[config.format]
    if config.output is not None:
        output = Path(config.output)
    else:
        name = Path(config.weights)
        output = name.with_suffix(ending) if name.exists() else Path(f"{name.name}{ending}")
    if output.suffix != ending:
        raise UsageError(f"--output {output}: a file of --format {config.format} ends in {ending}")
    files = files_of(output)
    for file in files:
        if file.is_dir() or (file.exists() and not config.force):
            raise UsageError(
                f"{file} is there already; give --force to replace it, or another --output"
            )
        if not file.parent.is_dir():
            raise UsageError(f"--output {file}: there is no folder {file.parent}; make it first")
        check_name(file)
    return files


def check_packages(config: ExportConfig) -> None:
    """Refuse before any work where something is missing.

    Raises:
        ExportError: naming the package and the extra to install.
    """
    what = f"export to --format {config.format}"
    extra = {"onnx": "onnx", "openvino": "onnx,openvino"}.get(config.format)
    if extra is not None:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(name, extra, what, ExportError)
    if config.format == "openvino":
        import_openvino(what)
    if config.format == "aoti":
        check_compiler()


def build_info(config: ExportConfig, checkpoint: Checkpoint) -> ExportInfo:
    """What will travel inside the file."""
    model = checkpoint.model_config
    if config.image_size is not None:
        model = dataclasses.replace(model, image_size=size_pair(config.image_size))
    path = resolve(config.weights)
    return ExportInfo(
        model_config=model,
        class_map=checkpoint.class_map,
        outputs="detections" if config.detections else "raw",
        batch=None if config.batch == "dynamic" else int(config.batch),
        postprocess=config.postprocess() if config.detections else FOR_PEOPLE,
        weights=path.name,
        weights_sha256=sha256_of(path) if path.is_file() else "",
        licence=checkpoint.licence,
        origin=checkpoint.origin,
    )


def _move(source: Path, target: Path) -> None:
    """The content of ``source`` as ``target``, whole or not at all."""
    with source.open("rb") as file:
        size = source.stat().st_size
        write_atomically(target, lambda out: shutil.copyfileobj(file, out), size=size)
