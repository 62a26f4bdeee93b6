# SPDX-License-Identifier: Apache-2.0
"""Pages as a browser lays them out; without Chromium such tests are skipped."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

WIDTHS = {"desktop": 1280, "phone": 390}
"""Pixels of CSS."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# The page lies in a frame of the wanted width, and is asked from outside: its own security policy
# lets no foreign script in.
MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" src="{address}" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="seen"></pre>
<script>
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const hidden = (box) => {{
    for (let at = box.parentElement; at; at = at.parentElement)
      if (/auto|scroll|hidden|clip/.test(getComputedStyle(at).overflowX)) return true;
    return false;
  }};
  const sticks = [...page.body.querySelectorAll("*")].filter((box) =>
    box.getBoundingClientRect().right > {width} + 1 && !hidden(box));
  const broken = [...page.images].filter((image) => !image.complete || !image.naturalWidth);
  const empty = [...page.querySelectorAll("svg")].filter((chart) =>
    chart.checkVisibility() && !chart.getBoundingClientRect().height);
  seen.textContent = JSON.stringify({{
    width: root.scrollWidth, height: root.scrollHeight, text: page.body.innerText.length,
    images: page.images.length, broken: broken.length, empty_charts: empty.length,
    sticks_out: sticks.slice(0, 5).map((box) => box.outerHTML.slice(0, 120)),
  }});
}};
</script>
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A page in a browser.

    Attributes:
        width, height: of the page, pixels; it scrolls sideways where it is wider than the window.
        text: characters that can be read.
        images: how many there are.
        broken: images that show nothing.
        empty_charts: drawings without height.
        sticks_out: the first elements that go beyond the window, and do not scroll.
    """

    width: int
    height: int
    text: int
    images: int
    broken: int
    empty_charts: int
    sticks_out: list[str]


def look(page: Path, width: int, folder: Path) -> Seen:
    """Open ``page`` in a window of ``width`` pixels; ``folder`` takes what is needed for it."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here: apt install chromium")
    frame = folder / f"frame{width}.html"
    frame.write_text(MEASURE.format(address=page.resolve().as_uri(), width=width))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    words += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
    words += ["--window-size=1400,1000", "--dump-dom", frame.as_uri()]
    done = subprocess.run([browser, *words], capture_output=True, text=True, timeout=180)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.S)
    assert found, f"the page was not laid out: {done.stderr[-2000:]}"
    return Seen(**json.loads(unescape(found[1])))
