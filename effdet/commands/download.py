# SPDX-License-Identifier: Apache-2.0
"""``effdet download``."""

from effdet import flags
from effdet.names import say
from effdet.settings import DownloadConfig
from effdet.weights.download import fetch, find_release, format_releases

DESCRIPTION = "Fetch public weights, to be used without a network later; print where they are."


def run(argv: list[str]) -> None:
    """``effdet download``."""
    config = flags.parse(DownloadConfig, argv, program="effdet download", description=DESCRIPTION)
    if config.list:
        print(format_releases())
    for release in [find_release(name) for name in config.names]:
        say(str(fetch(release)))
