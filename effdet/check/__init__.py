# SPDX-License-Identifier: Apache-2.0
"""A data set looked at before a night is spent on it: everything that is wrong, by stable ids."""

from effdet.check.findings import Example, Finding
from effdet.check.html import write_page
from effdet.check.next_step import next_command
from effdet.check.registry import KINDS, Kind
from effdet.check.report import CheckReport, check_data
from effdet.check.text import format_report

__all__ = [
    "KINDS",
    "CheckReport",
    "Example",
    "Finding",
    "Kind",
    "check_data",
    "format_report",
    "next_command",
    "write_page",
]
