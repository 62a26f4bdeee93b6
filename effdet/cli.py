# SPDX-License-Identifier: Apache-2.0
"""``effdet COMMAND``: each command is a file in ``effdet/commands``."""

import importlib
import sys
from types import ModuleType

from effdet import __version__, errors
from effdet.errors import UsageError, nearest

COMMANDS = (
    "check",
    "convert-data",
    "predict",
    "report",
    "export",
    "benchmark",
    "info",
    "convert",
    "download",
    "average",
)
"""In the order of a user's day; ``convert-data`` is ``effdet/commands/convert_data.py``."""


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    errors.run(lambda: run_command(sys.argv[1:]), "effdet")


def run_command(argv: list[str]) -> None:
    """Run one command.

    Raises:
        UsageError: for an unknown command or option.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] == "--version":
        print(__version__)
        return
    if argv[0] not in COMMANDS:
        raise UsageError(
            f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)} (see effdet --help)"
        )
    module_of(argv[0]).run(argv[1:])


def module_of(command: str) -> ModuleType:
    """The module of a command: its ``run`` takes the words, ``DESCRIPTION`` is its line of help.

    Loaded only now: a command needs no package of another one.
    """
    return importlib.import_module(f"effdet.commands.{command.replace('-', '_')}")


def _overview() -> str:
    lines = ["usage: effdet COMMAND [options]", ""]
    lines += [f"  {name:<13} {module_of(name).DESCRIPTION}" for name in COMMANDS]
    lines += ["", "effdet COMMAND --help lists the options. To train and validate: train.py and"]
    return "\n".join([*lines, "validate.py at the root of the repository."])


if __name__ == "__main__":
    main()
