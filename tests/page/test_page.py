# SPDX-License-Identifier: Apache-2.0
"""Pages: one file, nothing from elsewhere, and no text that becomes more than text."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from effdet.page import Figure, Page
from effdet.page.charts import Series, bar_chart, heat_map, histogram, line_chart

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[2J\u202e{{ 7*7 }}"


class Reader(HTMLParser):
    """The elements and texts of a page, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # what is opened is closed, in order

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def full_page(word: str) -> Page:
    """A page with a part of every kind, and ``word`` wherever text can stand."""
    page = Page(word, word)
    section = page.section(word, text=word)
    section.text(word).note(word).heading(word).command(word)
    section.facts({word: word, "number": 12345, "nothing": None})
    section.table([word, "b"], [[word, 1.23456], ["c", None]], numeric={1}, caption=word)
    charts = [
        line_chart([Series(name=word, x=[0, 1], y=[1, 2])], title=word, x_label=word, y_label=word),
        bar_chart([word, "b"], {word: [1, 2], "other": [2, None]}, title=word, x_label=word),
        histogram([0, 1, 2], [3, 4], title=word, x_label=word),
        heat_map([[1, None]], [word], [word, "b"], title=word, x_label=word, y_label=word),
    ]
    section.figures([Figure(svg=chart, caption=word, wide=True) for chart in charts])
    section.pictures([(Image.new("RGBA", (1000, 10)), word)])
    section.pairs([(Image.new("L", (10, 10)), Image.new("L", (10, 10)), word)])
    return page


def test_what_is_put_into_a_page_stands_in_it() -> None:
    html = full_page("plain").html()
    texts = " ".join(Reader(html).texts)
    assert "12,345" in texts
    assert "1.235" in texts
    assert "\N{EN DASH}" in texts
    assert texts.count("plain") > 20


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    plain, hostile = Reader(full_page("plain").html()), Reader(full_page(EVIL).html())
    names = [name for name, _ in plain.elements]
    # The same elements, whatever the words are; hover titles of cut labels may come on top.
    assert [name for name, _ in hostile.elements if name not in {"title", "g"}] == [
        name for name in names if name not in {"title", "g"}
    ]
    assert hostile.count("script") == 1
    assert not any(key.startswith("on") for _, attributes in hostile.elements for key in attributes)
    everything = "".join(hostile.texts) + repr([a for _, a in hostile.elements])
    assert "<script>alert(1)</script>" in everything  # it is there, as text
    assert "{{ 7*7 }}" in everything
    assert "\x1b" not in everything
    assert "\u202e" not in everything


def test_a_chart_that_is_none_of_ours_is_shown_as_text() -> None:
    page = Page("p")
    page.section("s").figures([Figure(svg="<svg><script>alert(1)</script></svg>")])
    found = Reader(page.html())
    assert found.count("svg") == 0
    assert found.count("script") == 1


def test_a_page_needs_nothing_from_elsewhere_and_runs_only_its_own_script() -> None:
    html = full_page("plain").html()
    found = Reader(html)
    for tag, attributes in found.elements:
        assert tag not in {"link", "iframe", "object", "base", "form"}
        for key in ("src", "href", "action", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,"))
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(a["content"] for _, a in found.elements if "http-equiv" in a)
    script = re.search(r"<script>(.*?)</script>", html, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_the_table_of_contents_leads_to_every_section() -> None:
    page = Page("p")
    page.section("one")
    page.section("two")
    found = Reader(page.html())
    links = [a["href"] for name, a in found.elements if name == "a"]
    ids = ["#" + (a["id"] or "") for name, a in found.elements if name == "section"]
    assert links == ids == ["#s1", "#s2"]


def test_pictures_are_made_small() -> None:
    page = Page("p")
    page.section("s").pictures([(Image.effect_noise((3000, 2000), 50), "noise")])
    assert len(page.html()) < 300_000


def test_small_pictures_stand_two_by_two_on_a_phone_and_large_ones_do_not() -> None:
    page = Page("p")
    picture = Image.new("RGB", (10, 10))
    page.section("s").pictures([(picture, "")], side=320).pictures([(picture, "")], side=1200)
    classes = [a.get("class") for name, a in Reader(page.html()).elements if name == "div"]
    assert classes == ["pictures small", "pictures"]
    assert ".pictures.small { grid-template-columns: 1fr 1fr; }" in page.html()


def test_a_command_wraps() -> None:
    page = Page("p")
    page.section("s").command("a " * 500)
    rule = re.search(r"\npre \{(.*?)\}", page.html(), re.S)
    assert rule is not None
    assert "white-space: pre-wrap" in rule[1]


def test_an_option_does_not_break_at_its_hyphens_and_is_copied_as_it_is() -> None:
    page, command = Page("p"), "effdet check my-data  --no-images \\\n  --html a.html"
    section = page.section("s").command(command).text("see --no-images").table(["a"], [["--lr"]])
    section.note("a --tile of 3").figures([Figure(svg="", caption="of --tile")])
    html = page.html()
    found = re.findall(r'<span class="word">(.*?)</span>', html)
    shown = ["my-data", "--no-images", "--html", "--no-images", "--lr", "--tile", "--tile"]
    assert found == shown
    assert re.search(r"\n\.word \{ display: inline-block; max-width: 100%; \}", html)
    (code,) = re.findall(r"<pre><code>(.*?)</code></pre>", html, re.S)
    assert "".join(Reader(code).texts) == command


def test_cells_of_text_wrap_and_numbers_do_not() -> None:
    html = Page("p").html()
    (cells,) = re.findall(r"\nth, td \{(.*?)\}", html, re.S)
    assert "nowrap" not in cells
    assert "td.number { white-space: nowrap; }" in html


def test_a_row_of_another_length_than_the_header_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the header 2"):
        Page("p").section("s").table(["a", "b"], [["x"]])


def test_writing_replaces_a_page_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    Page("new").write(path)
    assert "<title>new</title>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
