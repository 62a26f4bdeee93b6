# SPDX-License-Identifier: Apache-2.0
"""Progress bars."""

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """tqdm's bar without its thread, which loader processes would be forked beside."""

    monitor_interval = 0
