# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export and packages of AOTInductor (``.pt2``): files that are code.

To load one is to run it: torch.export unpickles, AOTInductor loads a shared library. So this is
the one place that does, and only after the user has said that the file is trusted. What a file
says of itself is read without that.
"""

import logging
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from effdet.errors import ExportError, UsageError, WeightsError, one_line, printable
from effdet.export.info import FILE_NAME, MAX_TEXT, ExportInfo
from effdet.export.onnx_file import Runner
from effdet.files.regular import open_regular

COMPILERS = ("c++", "g++", "clang++")


def save_program(program: torch.export.ExportedProgram, info: ExportInfo, path: Path) -> None:
    """Write a program of ``torch.export``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={FILE_NAME: info.to_text()})


def check_compiler() -> None:
    """Refuse before any work where AOTInductor could not compile.

    Raises:
        ExportError: where there is no C++ compiler.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise ExportError(
            f"--format aoti compiles the model and needs a C++ compiler ({', '.join(COMPILERS)}), "
            "and there is none here: install one, or take --format torch-export"
        )


def save_package(program: torch.export.ExportedProgram, info: ExportInfo, path: Path) -> None:
    """Compile ``program`` for this machine's processor and write it as a package.

    Raises:
        ExportError: with the compiler's message.
    """
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # whatever compilers say
        raise ExportError(f"AOTInductor could not compile the model: {one_line(error)}") from error
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/extra/{FILE_NAME}", info.to_text())


def read_program_info(path: Path) -> tuple[Literal["torch-export", "aoti"], ExportInfo]:
    """Which kind of ``.pt2`` a file is and what it says of itself; nothing in it is run.

    Raises:
        WeightsError: for a file that is missing, damaged or of another program.
    """
    name = printable(str(path))
    with open_regular(path, "exported program", WeightsError) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                found = [n for n in names if n.endswith(f"/extra/{FILE_NAME}")]
                if len(found) != 1:
                    raise WeightsError(f"{name}: a .pt2, but not one that `effdet export` wrote")
                size = archive.getinfo(found[0]).file_size
                if size > MAX_TEXT:
                    raise WeightsError(
                        f"{name}: {FILE_NAME} in it has {size:,} bytes; at most {MAX_TEXT:,} are "
                        "read"
                    )
                text = archive.read(found[0]).decode()
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as e:
            if isinstance(e, WeightsError):
                raise
            raise WeightsError(f"{name}: damaged, or no exported program") from e
    compiled = any("/data/aotinductor/" in n for n in names)
    return "aoti" if compiled else "torch-export", ExportInfo.from_text(text, path)


def program_runner(path: Path, *, trust_code: bool) -> tuple[Runner, ExportInfo]:
    """A function that runs a ``.pt2``.

    Raises:
        UsageError: without ``trust_code``.
        WeightsError: for a file that is missing, damaged or of another program.
    """
    kind, info = read_program_info(path)
    name = printable(str(path))
    if not trust_code:
        raise UsageError(
            f"{name} is code that runs as you do; if it is your own or you trust who made it, say "
            "so with --trust-code (in Python: trust_code=True)"
        )
    try:
        call = _load_package(path) if kind == "aoti" else _load_program(path)
    except Exception as error:  # whatever a damaged program makes torch raise
        raise WeightsError(f"{name}: cannot be loaded: {one_line(error)}") from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(call(images))

    return run, info


def _load_program(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path).module()


def _load_package(path: Path) -> Any:
    return torch._inductor.aoti_load_package(str(path.absolute()))
