# SPDX-License-Identifier: Apache-2.0
"""``effdet check``."""

import sys

from effdet import flags
from effdet.check import check_data, format_report, next_command, write_page
from effdet.files import check_output, replace_text
from effdet.names import json_text, say
from effdet.page import BEGINS
from effdet.settings import MAX_PIXELS
from effdet.settings.check import CheckConfig

DESCRIPTION = "Find what is wrong with a data set, before training: exit code 3 on errors."

JSON_BEGINS = b'{\n "format": "effdet-check"'
"""How a report that may be replaced begins."""


def run(argv: list[str]) -> None:
    """``effdet check``."""
    config = flags.parse(CheckConfig, argv, program="effdet check", description=DESCRIPTION)
    alone = config.json == "-"
    if config.json is not None and not alone:
        check_output(config.json, [config.html], begins=JSON_BEGINS)
    if config.html is not None:
        check_output(config.html, [config.json], begins=BEGINS)
    model = config.model_config()
    report = check_data(
        config.data,
        model,
        splits=config.splits,
        images=config.images,
        workers=config.workers,
        max_pixels=config.max_pixels,
        follow_links=config.follow_links,
        examples=config.examples,
    )
    command = next_command(report, training_options(config))
    if config.json is not None:
        text = json_text(report.to_dict() | {"next": command}, indent=1)
        print(text) if alone else replace_text(config.json, text + "\n")
    if config.html is not None:
        write_page(report, config.html, config.max_pixels, command)
    if not alone:
        say(format_report(report))
        for kind, path in (("json", config.json), ("html", config.html)):
            if path is not None:
                say(f"{kind}: {path}")
        sys.stdout.flush()
        say(f"next: {command}")
    report.raise_if_errors()


def training_options(config: CheckConfig) -> list[str]:
    """The options of this check that training needs as well."""
    words = ["--weights", f"tf_{config.model}"]
    if config.image_size is not None:
        words += ["--image-size", *map(str, config.image_size)]
    if config.anchors is not None:
        words += ["--anchors", config.anchors, "--partial-weights"]
    if config.max_pixels != MAX_PIXELS:
        words += ["--max-pixels", str(config.max_pixels)]
    if config.follow_links:
        words += ["--follow-links"]
    return words
