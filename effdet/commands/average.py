# SPDX-License-Identifier: Apache-2.0
"""``effdet average``."""

from effdet import flags
from effdet.names import say
from effdet.settings import AverageConfig
from effdet.weights.average import average_weights

DESCRIPTION = "Average the weights of checkpoints of one model."


def run(argv: list[str]) -> None:
    """``effdet average``."""
    config = flags.parse(AverageConfig, argv, program="effdet average", description=DESCRIPTION)
    say(average_weights(config))
