# SPDX-License-Identifier: Apache-2.0
"""Charts as inline SVG, in colours of the page's style sheet.

The colours are those of Okabe and Ito, which colour-blind eyes tell apart; lines beyond the first
six are dashed. The name and value of every point stand in a hover title.
"""

from effdet.page.charts.bars import bar_chart, histogram
from effdet.page.charts.heat import heat_map
from effdet.page.charts.lines import Series, line_chart, smooth

__all__ = ["Series", "bar_chart", "heat_map", "histogram", "line_chart", "smooth"]
