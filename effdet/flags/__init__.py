# SPDX-License-Identifier: Apache-2.0
"""Command-line flags and YAML files made from the fields of a dataclass.

A field written with :func:`option` is a flag: its name, type, default and help are those of the
field. Values come, later ones winning, from the defaults, a preset, ``--config FILE`` and flags.
"""

from effdet.flags.command_line import build, is_asked, parse
from effdet.flags.option import as_flag, flag_name, option
from effdet.flags.yaml_options import checked_values, load_yaml, save_yaml

__all__ = [
    "as_flag", "build", "checked_values", "flag_name", "is_asked", "load_yaml", "option", "parse",
    "save_yaml",
]  # fmt: skip
