# SPDX-License-Identifier: Apache-2.0
"""``effdet convert``."""

from effdet import flags
from effdet.names import say
from effdet.settings import ConvertConfig
from effdet.weights.convert import convert_weights

DESCRIPTION = "Write weights of any known kind as a file of this toolkit."


def run(argv: list[str]) -> None:
    """``effdet convert``."""
    config = flags.parse(ConvertConfig, argv, program="effdet convert", description=DESCRIPTION)
    say(convert_weights(config))
