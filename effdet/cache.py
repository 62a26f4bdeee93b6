# SPDX-License-Identifier: Apache-2.0
"""Where files are kept that can be had again."""

import os
from pathlib import Path

ADVICE = "set EFFDET_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """``$EFFDET_CACHE``, else ``effdet`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if os.environ.get("EFFDET_CACHE"):
        return Path(os.environ["EFFDET_CACHE"])
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "effdet"
