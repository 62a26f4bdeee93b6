# SPDX-License-Identifier: Apache-2.0
"""Settings of Sphinx: `make docs` builds the site into build/site."""

import contextlib
import importlib
import io
import os
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

release = importlib.import_module("effdet").__version__
project = "effdet"
html_show_copyright = html_show_sphinx = False
html_title = f"effdet {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["conf.py"]
html_theme = "furo"
smartquotes = False  # which would make a dash of the two of an option
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

PROJECT = {f"{name}.md": f"docs/project/{name.lower()}.md" for name in
           ("README", "SECURITY", "CONTRIBUTING", "CHANGELOG")}  # fmt: skip
"""Pages of the repository's root, and where they are in the site."""

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")


def setup(app: Any) -> None:
    """Fill the pages that are made of something else."""
    app.connect("source-read", fill)


def fill(app: Any, name: str, content: list[str]) -> None:
    """Take the root's pages, lead links to where things are in the site, and add the commands."""
    page = f"docs/{name}.md"
    source = next((root for root, place in PROJECT.items() if place == page), page)
    text = (ROOT / source).read_text(encoding="utf-8") if source != page else content[0]

    def lead(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        path = PROJECT.get(path, path)
        found = posixpath.relpath(path, posixpath.dirname(page))
        # What is no page of the site is copied into it.
        return f"](path:{found})" if not path.startswith("docs/") else f"]({found}{match[2]})"

    content[0] = LINK.sub(lead, text)
    if name == "reference/commands":
        content[0] += commands()


def commands() -> str:
    """The help of every program, as Markdown."""
    cli = importlib.import_module("effdet.cli")
    parts = [_section(f"{name}.py", _main(name)) for name in ("train", "validate")]
    parts += [_section(f"effdet {name}", _command(cli, name)) for name in cli.COMMANDS]
    return "\n".join(parts)


def _main(name: str) -> Callable[[list[str]], None]:
    module = importlib.import_module(name)

    def run(words: list[str]) -> None:
        with mock.patch.object(sys, "argv", [f"{name}.py", *words]):
            module.main()

    return run


def _command(cli: Any, name: str) -> Callable[[list[str]], None]:
    return lambda words: cli.run_command([name, *words])


def _section(title: str, run: Callable[[list[str]], None]) -> str:
    text = io.StringIO()
    width = mock.patch.dict(os.environ, {"COLUMNS": "84"})
    with width, contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run(["--help"])
    return f"\n## {title}\n\n```text\n{text.getvalue().rstrip()}\n```\n"
