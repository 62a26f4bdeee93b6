# SPDX-License-Identifier: Apache-2.0
"""``python -m effdet.ops``: which kernels were built, and which of them are in use."""

from effdet.ops import build_info


def main() -> None:
    """Print :func:`effdet.ops.build_info`, a line an entry."""
    for name, value in build_info().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
