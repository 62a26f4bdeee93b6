# SPDX-License-Identifier: Apache-2.0
"""Pages of HTML that are one file each and open anywhere."""

from effdet.page.page import BEGINS, Cell, Figure, Page, Section

__all__ = ["BEGINS", "Cell", "Figure", "Page", "Section"]
