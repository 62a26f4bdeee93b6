# SPDX-License-Identifier: Apache-2.0
import re
import shlex
from pathlib import Path

from effdet import flags
from effdet.check import KINDS
from effdet.check.registry import SEVERITIES
from effdet.presets import PRESETS
from effdet.settings import CheckConfig, TrainConfig

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_documentation_is_the_registry() -> None:
    text = (DOCS / "check.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (error|warning|info) \| (.+) \| (.+) \|$", text, re.M)
    assert rows == [(k.id, k.severity, k.meaning, k.advice) for k in KINDS.values()]


def test_what_was_found_in_real_data_has_known_ids() -> None:
    section = (DOCS / "check.md").read_text().split("## What it finds")[1]
    ids = re.findall(r"^\| `([\w.]+)` \|", section, re.M)
    assert len(ids) == 10
    assert set(ids) <= set(KINDS)


def test_every_kind_is_told_in_a_sentence_each() -> None:
    for kind in KINDS.values():
        assert re.fullmatch(
            r"(file|ids|splits|files|images|classes|boxes|anchors)\.[a-z_]+", kind.id
        )
        assert kind.severity in SEVERITIES
        for text in (kind.meaning, kind.advice):
            assert text[0].isupper() or text.startswith("iscrowd")
            assert text.endswith(".")
            assert "|" not in text


def test_every_command_has_options_that_exist() -> None:
    lines = re.findall(
        r"^(?:python )?(train\.py|effdet check)( .*)$", (DOCS / "check.md").read_text(), re.M
    )
    assert len(lines) >= 4
    for program, words in lines:
        if program == "train.py":
            flags.parse(
                TrainConfig, shlex.split(words), program="", description="", presets=PRESETS
            )
        else:
            flags.parse(CheckConfig, shlex.split(words), program="", description="")
