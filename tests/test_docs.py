# SPDX-License-Identifier: Apache-2.0
"""What README and docs/ tell people to type works, and their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import train
import validate
from effdet import cli, flags
from effdet.errors import UsageError
from tests.browser import WIDTHS, look

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PROGRAMS = {"train.py": train.main, "validate.py": validate.main, "effdet": cli.main}


class ParsedError(Exception):
    """The words of a command were understood."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> list[list[str]]:
    """The words of every call of our programs in the code blocks of a page, program first."""
    found = []
    for language, block in re.findall(r"^```(\S*)[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S):
        if language not in ("", "sh", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(python |torchrun |effdet )", line):
                words = shlex.split(line, comments=True)
                place = next((i for i, word in enumerate(words) if word in PROGRAMS), None)
                found += [words[place:]] if place is not None else []
    return found


CALLS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), CALLS, ids=[f"{name_of(page)}:{' '.join(words)}" for page, words in CALLS]
)
def test_every_command_has_options_that_exist(
    page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = flags.parse

    def parse_only(cls: type[Any], argv: Sequence[str], **options: Any) -> Any:
        if not ({"--resume", "--config"} & set(argv)):  # which read files of a run
            parse(cls, argv, **options)
        raise ParsedError

    monkeypatch.setattr(flags, "parse", parse_only)
    monkeypatch.setattr(sys, "argv", words)
    program = PROGRAMS[words[0]]
    if words[0] == "effdet" and words[1] in ("--help", "--version"):
        return
    with pytest.raises((ParsedError, SystemExit)) as caught:
        cli.run_command(words[1:]) if words[0] == "effdet" else program()
    if isinstance(caught.value, SystemExit):
        assert "--help" in words


def test_a_wrong_command_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--batchsize", "3"])
    with pytest.raises(UsageError, match="batchsize"):
        train.main()


def test_every_program_and_command_is_shown_somewhere() -> None:
    shown = {words[0] for _, words in CALLS} | {w[1] for _, w in CALLS if w[0] == "effdet"}
    assert set(PROGRAMS) | set(cli.COMMANDS) <= shown


def anchors(page: Path) -> set[str]:
    """What ``#...`` may stand for in links to a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for path, anchor in re.findall(r"\]\(([^):#\s]*)(?:#([^)\s]*))?\)", text):
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


class Resources(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if name is not None:
            self.found.append(values.get(name) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built without a warning; a page that no table leads to would be one."""
    folder = tmp_path_factory.mktemp("docs")
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs"]
    done = subprocess.run(
        [*words, str(folder / "site"), "-d", str(folder / "trees")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in [page for page in PAGES if page.parent.name == "docs"]:
        resources = Resources()
        resources.feed((site / f"{page.stem}.html").read_text())
        assert resources.found
        assert not [address for address in resources.found if "//" in address]
    assert "--backbone-weights" in (site / "reference" / "commands.html").read_text()
    dashed = [
        page for page in site.rglob("*.html") if re.search("\N{EN DASH}[a-z]", page.read_text())
    ]
    assert not dashed, "options have lost a dash"
    assert "sigmoid_focal_loss" in (site / "reference" / "python.html").read_text()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(
    "page", ["index", "custom_data", "check", "reference/python", "reference/commands"]
)
def test_the_site_fits_a_window(page: str, width: int, site: Path, tmp_path: Path) -> None:
    seen = look(site / f"{page}.html", width, tmp_path)
    assert seen.width <= width, seen.sticks_out
    assert seen.text > 500
    assert not seen.broken
