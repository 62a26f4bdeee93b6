# SPDX-License-Identifier: Apache-2.0
"""``effdet download``."""

import shlex

from effdet import flags
from effdet.data.coco2017 import download_coco2017
from effdet.names import say
from effdet.settings import DownloadConfig
from effdet.settings.download import DATASET
from effdet.weights.download import fetch, find_release, format_releases

DESCRIPTION = "Fetch public weights to be used without a network later, or the data set coco2017."


def run(argv: list[str]) -> None:
    """``effdet download``."""
    config = flags.parse(DownloadConfig, argv, program="effdet download", description=DESCRIPTION)
    if config.list:
        print(format_releases())
    for release in [find_release(name) for name in config.names if name != DATASET]:
        say(str(fetch(release)))
    if DATASET in config.names:
        folder = download_coco2017(config.output or DATASET, config.parts)
        say(f"next: {shlex.join(['effdet', 'check', str(folder)])}")
