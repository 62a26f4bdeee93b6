# SPDX-License-Identifier: Apache-2.0
"""The pages of ``effdet report`` and ``effdet check`` in a browser, at desktop and phone width."""

from pathlib import Path

import pytest

from effdet import cli
from tests.browser import WIDTHS, look


@pytest.fixture(scope="module")
def pages(
    tiny_run: Path, report_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    report, check = folder / "report.html", folder / "check.html"
    cli.run_command(["report", str(tiny_run), "--output", str(report)])
    cli.run_command(["check", str(report_data), "--html", str(check)])
    return {"report": report, "check": check}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["report", "check"])
def test_a_page_fits_its_window_and_shows_every_picture(
    name: str, width: int, pages: dict[str, Path], tmp_path: Path
) -> None:
    seen = look(pages[name], width, tmp_path)
    assert seen.width <= width, seen.sticks_out
    assert not seen.sticks_out
    assert seen.text > 500
    assert seen.images > 0
    assert (seen.broken, seen.empty_charts) == (0, 0)


def test_a_page_that_does_not_fit_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p style='width:700px'>wide</p><img src='missing.png'>")
    seen = look(page, 390, tmp_path)
    assert seen.width > 390
    assert seen.sticks_out
    assert (seen.images, seen.broken) == (1, 1)
