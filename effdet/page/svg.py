# SPDX-License-Identifier: Apache-2.0
"""Elements of SVG as text; what is put into them comes out as text, never as an element."""

from markupsafe import Markup

from effdet.errors import printable


def element(name: str, *content: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element, such as ``line``.
        content: other elements, or text, which is escaped.
        attributes: by name, ``_`` for ``-`` and a trailing one for a word of Python (``class_``);
            None leaves one out, numbers are rounded to a hundredth.
    """
    words = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup().join(c if isinstance(c, Markup) else printable(str(c)) for c in content)
    return Markup(f"<{name}") + Markup().join(words) + Markup(">") + inner + Markup(f"</{name}>")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value))


def text(content: object, x: float, y: float, **attributes: object) -> Markup:
    """A line of text at (x, y)."""
    return element("text", content, x=x, y=y, **attributes)


def drawing(width: float, height: float, title: str, *content: Markup) -> Markup:
    """An ``<svg>`` that grows with the page; ``title`` is read to those who cannot see it."""
    return element(
        "svg",
        *content,
        class_="chart",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=title,
        style=f"--width:{width:.0f}px",
    )
