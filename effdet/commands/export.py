# SPDX-License-Identifier: Apache-2.0
"""``effdet export``."""

import shlex

from effdet import flags
from effdet.export import Exported, export, typed
from effdet.export.checking import format_check
from effdet.export.describe import name_and_shape
from effdet.files import megabytes, short_path
from effdet.keepsakes import validated_images
from effdet.names import say
from effdet.settings import ExportConfig

DESCRIPTION = "Write a detector as ONNX, OpenVINO, torch.export or AOTInductor file, checked."


def run(argv: list[str]) -> None:
    """``effdet export``."""
    config = flags.parse(ExportConfig, argv, program="effdet export", description=DESCRIPTION)
    validated = [] if config.check_images else validated_images(config.weights)
    written = export(config, images=validated)
    say(f"{' and '.join(map(str, written.files))}: {megabytes(written.size)}")
    for number, (name, shape) in enumerate(written.shapes.items()):
        kind = "output" if number else "input"
        say(f"{kind:<15} {name_and_shape(name, shape)}")
    say(f"checked against PyTorch on {written.check.pictures}:")
    say(format_check(written.check, written.info.postprocess.score_threshold))
    say(next_commands(config, written))


def next_commands(config: ExportConfig, written: Exported) -> str:
    """What to type next with this file: whole commands, on images that are known."""
    weights = typed(written.files[0])
    commands = [["effdet", "benchmark", config.weights, *weights]]
    if written.images:
        images = str(short_path(written.images[0].parent))
        words = ["effdet", "predict", images, "--weights", *weights, "--output", "out"]
        commands.insert(0, words)
    return "next: " + "\n      ".join(map(shlex.join, commands))
