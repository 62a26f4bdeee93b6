# SPDX-License-Identifier: Apache-2.0
"""The commands of ``effdet``, a file each: ``run`` takes the words after the name."""
