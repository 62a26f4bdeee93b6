# SPDX-License-Identifier: Apache-2.0
"""The CPUs of this process."""

import os


def usable_cpus() -> int:
    """CPUs that this process may run on, at least 1; all of the machine where nobody can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
