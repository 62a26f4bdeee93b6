# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from effdet import flags
from effdet.errors import UsageError
from effdet.files.yaml_file import MAX_BYTES, dump_yaml, read_yaml
from effdet.presets import PRESETS
from effdet.settings import TrainConfig

SEED = 6
MUTATIONS = 3000


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes) -> dict[str, Any]:
    return {key: entry.value for key, entry in read_yaml(write(folder, text)).items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("4e-5", 4e-5), ("1E5", 1e5), (".5", 0.5), ("1.", 1.0),
        ("-2.5e+3", -2500.0),
        ("7", 7), ("+7", 7), ("-7", -7), ("012", 12), ("0o17", 15), ("0x1F", 31),
        ("true", True), ("True", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        (".inf", math.inf), ("-.INF", -math.inf),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("12:30:45", "12:30:45"), ("1_000", "1_000"), ("0b11", "0b11"),
        ("2026-01-01", "2026-01-01"),
        ("=", "="), ("'7'", "7"), ('"null"', "null"), ('"\\e[2J"', "\x1b[2J"), ("e5", "e5"),
        ("[1, no, 2e1]", [1, "no", 20.0]), ("{a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_plain_text_means_what_yaml_1_2_says(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"x: {text}\n")["x"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_number(tmp_path: Path) -> None:
    assert math.isnan(read(tmp_path, "x: .nan")["x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: !!python/object/apply:os.system [id]", "1:4: tags (tag:yaml.org,2002:python/object"),
        ("x: !!int 1", "1:4: tags"),
        ("x: ! 1", "1:4: tags (!)"),
        ("x: !mine 1", "1:4: tags (!mine)"),
        ("!!map {x: 1}", "1:1: tags"),
        ("a: 1\nx: &name 1", "2:4: anchors (&name)"),
        ("x: [1, *name]", "1:8: aliases (*name)"),
        ("*name : 1", "1:1: aliases (*name)"),
        ("<<: {x: 1}", "1:1: merge keys"),
        ("x: 1\ny: 2\nx: 3", "3:1: 'x' is given twice, first in line 1"),
        ("x: {a: 1, a: 2}", "1:11: 'a' is given twice"),
        ("x: 1\n---\ny: 2", "2:1: expected one document"),
        ("x: 1\n---\n", "2:1: expected one document"),
        ("1: x", "1:1: expected the name of an option, found 1"),
        ("true: x", "1:1: expected the name of an option, found True"),
        ("? [a]\n: x", "1:3: expected the name of an option, found a list"),
        ("x: " + "[" * 30 + "]" * 30, "nested more than 20 deep"),
        ("x: " + "{a: " * 30 + "}" * 30, "nested more than 20 deep"),
        ("x: " + "9" * 5000, "1:4: a number of 5000 characters"),
        ("x: [1, 2", "not YAML"),
        ("x: 'a", "not YAML"),
        ("\tx: 1", "1:1: not YAML"),
        ('x: "\\U99999999"', "not YAML"),
        ("%YAML 9.1\n---\nx: 1", "not YAML"),
        ("a: 1\nx: \x1b[2J", "2:4: not a YAML file: character '\\x1b'"),
        (b"\xef\xbb\xbfx: *a", "1:4: aliases"),
        (b"\xef\xbb\xbfx: \xe9", "1:4: not a YAML file in UTF-8: byte 0xe9"),
        ("x: 1".encode("utf-16"), "1:1: not a YAML file in UTF-8: byte 0xff"),
        (b"a: 1\nx: caf\xe9", "2:7: not a YAML file in UTF-8: byte 0xe9"),
    ],
)  # fmt: skip
def test_what_is_not_plain_data_is_refused_where_it_stands(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    found = str(caught.value)
    assert message in found
    assert re.match(rf"{re.escape(str(tmp_path))}/c\.yaml:\d+:\d+: ", found) or "U9999" in str(text)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfx: 1") == read(tmp_path, b"x: 1")


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"c\.yaml: expected 'option: value' lines, found nothing"):
        read(tmp_path, text)


def test_a_file_that_grows_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a file of 100,003 bytes, more than 100,000"):
        read(tmp_path, b"x: " + b"a" * MAX_BYTES)
    with pytest.raises(UsageError, match="deep"):
        read(tmp_path, b"[" * (MAX_BYTES - 1))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"x\.yaml: "):
        read_yaml(path)


ODD_TEXTS = (
    "no", "Yes", "on", "null", "~", "", " ", "1e-3", "4e5", "012", "0o17", "0x1f", "0b1", "1_0",
    ".5",
    "1:30", "12:30:45", ".nan", "-.inf", "true", "<<", "=", "*a", "&a", "!a", "- a", "a: b", "a #b",
    "'", '"', "\n", "a\n b\n", "\t", "\x1b[2J", "\u202e", "\x85", "\u2028", "\ud800", "\ufeff",
    "[", "{", "%", "@", "`", "|", ">", "---", "...", "a" * 300, "ab " * 100, "\U0001f600", "é",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_any_text_survives_being_saved(tmp_path: Path, text: str) -> None:
    saved = dump_yaml({"x": text, "y": [text, text]})
    assert read(tmp_path, saved) == {"x": text, "y": [text, text]}
    if text not in ("\ufeff", "\ud800"):
        assert yaml.safe_load(saved)["x"] == text


@pytest.mark.parametrize("value", [4e-5, 1e-300, 1e300, 1e16, -0.0, 5, 0.1, 2.0**-126, True, None])
def test_any_number_survives_being_saved(tmp_path: Path, value: Any) -> None:
    found = read(tmp_path, dump_yaml({"x": value}))["x"]
    assert repr(found) == repr(value)


def float_options() -> list[str]:
    hints = {field.name: str(field.type) for field in dataclasses.fields(TrainConfig)}
    return [name for name, hint in hints.items() if "float" in hint and "float16" not in hint]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("name", float_options())
def test_every_setting_that_must_be_finite_is_checked(
    tmp_path: Path, name: str, value: str
) -> None:
    field = next(field for field in dataclasses.fields(TrainConfig) if field.name == name)
    count = re.search(r"tuple\[(.*)\]", str(field.type))
    text = f"[{', '.join([value] * (count[1].count(',') + 1))}]" if count else value
    values = flags.load_yaml(TrainConfig, write(tmp_path, f"{name}: {text}\n"))
    with pytest.raises(UsageError, match=name.replace("_", "[_-]")):
        flags.build(TrainConfig, values)


PIECES = (
    "!!python/name:os.system", "&a ", "*a", "<<: ", "---\n", "...\n", "%TAG ! x\n", "? ", "- ",
    ": ",
    "[", "]", "{", "}", "|\n", ">-\n", "'", '"', "\t", "\n", "\n  ", "#", "0x", "1e999", "-",
    ".nan",
    "\\x", "\ufeff", "\x00", "\x1b", "9" * 600, "lr: 1\n", "nan", "\u2028", "~", "amp: ", "no", ",",
)  # fmt: skip


def mutated(text: str, draw: random.Random) -> bytes:
    """``text`` with a few pieces put in, taken out, doubled, or bytes changed."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text) + 1)
        end = min(len(text), at + draw.randrange(12))
        kind = draw.randrange(4)
        middle = (draw.choice(PIECES), "", text[at:end] * 2, text[at:end][::-1])[kind]
        text = text[:at] + middle + text[end if kind != 0 else at :]
    content = bytearray(text.encode())
    if content and draw.random() < 0.2:
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def test_damaged_files_are_settings_or_a_usage_error(tmp_path: Path) -> None:
    draw, refused, longest = random.Random(SEED), 0, 0.0
    flags.save_yaml(TrainConfig(), tmp_path / "all.yaml")
    texts = [(tmp_path / "all.yaml").read_text()[:400]]
    texts += [dump_yaml({k: _listed(v) for k, v in values.items()}) for values in PRESETS.values()]
    for number in range(MUTATIONS):
        path = write(tmp_path, mutated(draw.choice(texts), draw))
        begin = time.monotonic()
        try:
            flags.build(TrainConfig, flags.load_yaml(TrainConfig, path))
        except UsageError:
            refused += 1
        except Exception as error:
            pytest.fail(f"case {number} of seed {SEED}: {error!r}: {path.read_bytes()!r}")
        longest = max(longest, time.monotonic() - begin)
    print(f"{MUTATIONS} files, seed {SEED}: {refused} refused, longest {longest:.3f} s")
    assert MUTATIONS * 0.3 < refused < MUTATIONS
    assert longest < 2


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
