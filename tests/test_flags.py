# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from effdet import flags
from effdet.errors import SettingError, UsageError
from effdet.flags import option
from effdet.presets import ABOUT, PRESETS
from effdet.settings import ExportConfig, PredictConfig, TrainConfig, ValidateConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    files: tuple[str, ...] = option(help="input", positional=True)
    weights: str = option(help="a checkpoint")
    lr: float = option(0.1, help="learning rate, 100 % at most")
    steps: int = option(5, help="steps")
    size: tuple[int, ...] | None = option(None, help="pixels")
    pair: tuple[int, int] = option((1, 2), help="two numbers")
    kind: Literal["a", "b"] = option("a", help="kind", instead={"c": "c is b now"})
    other_kind: Literal["a", "b"] | None = option(None, help="kind")
    clip_boxes: bool = option(True, help="clip")
    method: Literal["gaussian", "hard"] = option("hard", help="method")

    def __post_init__(self) -> None:
        if self.lr > 1:
            raise SettingError("lr", f"must be at most 1, got {self.lr}")


def parse(*argv: str, **more: Any) -> Settings:
    return flags.parse(Settings, ["in", *argv], program="prog", description="What it does.", **more)


def test_values_have_the_types_of_the_fields() -> None:
    settings = parse(
        "more", "--weights", "w.pt", "--lr", "1e-3", "--steps", "7", "--size", "4", "6",
        "--pair", "8", "9", "--kind", "b", "--other-kind", "a", "--no-clip-boxes",
    )  # fmt: skip
    assert settings == Settings(
        files=("in", "more"),
        weights="w.pt",
        lr=1e-3,
        steps=7,
        size=(4, 6),
        pair=(8, 9),
        kind="b",
        other_kind="a",
        clip_boxes=False,
    )


def test_defaults_are_those_of_the_fields() -> None:
    settings = parse("--weights", "w.pt")
    assert (settings.lr, settings.size, settings.pair, settings.clip_boxes) == (
        0.1, None, (1, 2), True,
    )  # fmt: skip


def test_what_is_typed_is_asked_for_though_it_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("kind: a\n")
    words = ("--weights", "w", "--steps", "5", "--config", str(file))
    settings = parse(*words, "--preset", "p", presets={"p": {"pair": (1, 2), "lr": 0.2}})
    names = ("steps", "kind", "lr", "pair", "size", "method")
    asked = {name for name in names if flags.is_asked(settings, name)}
    assert asked == {"steps", "kind", "lr"}  # the preset's pair is the default
    assert not flags.is_asked(Settings(files=("in",), weights="w", steps=5), "steps")


@pytest.mark.parametrize("word", ["tensorrt", "trt"])
def test_who_wants_tensorrt_is_led_to_onnx(word: str) -> None:
    with pytest.raises(UsageError, match=rf"found '{word}'; TensorRT .* --format onnx, then docs/"):
        flags.parse(ExportConfig, ["x.pt", "--format", word], program="p", description="")


def test_debug_is_for_the_program_not_the_settings() -> None:
    assert parse("--weights", "w.pt", "--debug") == parse("--weights", "w.pt")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--step", "3"], r"unknown option --step; did you mean --steps.*\(see --help\)"),
        (["--stesp=3"], "unknown option --stesp; did you mean --steps"),
        (["--kind", "c"], r"argument --kind: must be one of a, b, found 'c'; c is b now \(see"),
        (["--kind", "d"], r"argument --kind: must be one of a, b, found 'd' \(see"),
        (["--method", "gausian"], "found 'gausian'; did you mean gaussian"),
        (["--steps", "many"], "argument --steps: must be a whole number, found 'many'"),
        (["--steps", "9" * 30], "argument --steps: must be a whole number, found 9"),
        (["--steps", "9" * 9000], "argument --steps: must be a whole number, found '9"),
        (["--pair", "1"], "argument --pair: expected 2 arguments"),
        (["--steps"], "argument --steps: expected one argument"),
        (["--lr", "3"], "^--lr must be at most 1, got 3.0"),
        ([], "--weights is needed: a checkpoint"),
    ],
)
def test_a_wrong_word_is_named_with_what_to_do(argv: list[str], message: str) -> None:
    words = argv if "is needed" in message else [*argv, "--weights=w.pt"]
    with pytest.raises(UsageError, match=message):
        parse(*words)


def test_a_wrong_setting_is_named_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lr: 3\n")
    words = ("--weights", "w", "--config", str(file))
    with pytest.raises(UsageError, match=re.escape(f"{file}: lr must be at most 1, got 3.0")):
        parse(*words)
    with pytest.raises(UsageError, match=r"^--lr must be at most 1, got 2\.0"):
        parse(*words, "--lr", "2")
    with pytest.raises(UsageError, match=r"^lr must be at most 1, got 2\.0"):
        parse("--weights", "w", "--preset", "p", presets={"p": {"lr": 2.0}})
    with pytest.raises(UsageError, match=r"^lr must be at most 1, got 2\.0"):
        Settings(files=("in",), weights="w", lr=2.0)


def test_a_missing_positional_is_named() -> None:
    with pytest.raises(UsageError, match=r"FILES is needed|required: FILES"):
        flags.parse(Settings, ["--weights", "w"], program="prog", description="")


def test_a_positional_with_a_default_may_be_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Names:
        names: tuple[str, ...] = option((), help="names", positional=True)

    parsed = [
        flags.parse(Names, argv, program="prog", description="") for argv in ([], ["a"], ["a", "b"])
    ]
    assert [names.names for names in parsed] == [(), ("a",), ("a", "b")]


def test_help_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "learning rate, 100 % at most (default: 0.1)" in text
    for name in ("FILES", "--weights", "--size", "--no-clip-boxes", "--config", "--debug"):
        assert name in text


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 30\nlr: 0.3\n")
    presets = {"quick": {"steps": 20, "lr": 0.2, "kind": "b", "weights": "preset.pt"}}
    saved = {"steps": 10, "lr": 0.15, "kind": "a", "weights": "saved.pt", "clip_boxes": False}
    seen: list[dict[str, Any]] = []

    def earlier_run(given: Any) -> dict[str, Any]:
        seen.append(dict(given))
        return saved

    words = ("--preset", "quick", "--config", str(file), "--lr", "0.4")
    settings = parse(*words, presets=presets, saved=earlier_run)
    assert settings.lr == 0.4  # a flag
    assert settings.steps == 30  # the file
    assert (settings.kind, settings.weights) == ("b", "preset.pt")  # the preset
    assert settings.clip_boxes is False  # the earlier run
    assert seen[0]["lr"] == 0.4


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(
        UsageError, match="--preset: must be one of quick, found 'quikc'; did you mean quick"
    ):
        parse("--weights", "w", "--preset", "quikc", presets={"quick": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes: 3", "1:1: unknown option 'stpes'; did you mean steps"),
        ("lr: 0.1\npreset: demo", "2:1: give --preset on the command line, not here"),
        ("lr: 0.1\nsteps: many", "2:8: steps must be a whole number, found 'many'"),
        ("steps: 2.5", "1:8: steps must be a whole number, found 2.5"),
        ("steps: true", "steps must be a whole number, found True"),
        ("steps: 9999999999999999999", "steps must be a whole number, found 9999999999999999999"),
        ("lr: true", "lr must be a number, found True"),
        ("lr: fast", "lr must be a number, found 'fast'"),
        ("lr: null", "lr must be a number, found None"),
        ("lr: '0.1'", "lr must be a number, found '0.1'"),
        ("weights: 1", "weights must be text, in quotes where it looks like.*found 1"),
        ("clip_boxes: 1", "clip_boxes must be true or false, found 1"),
        ("clip_boxes: no", "clip_boxes must be true or false, found 'no'"),
        ("kind: c", "kind must be one of a, b, found 'c'; c is b now$"),
        ("kind: d", "kind must be one of a, b, found 'd'$"),
        ("method: gausian", "found 'gausian'; did you mean gaussian"),
        ("pair: [1, 2, 3]", r"pair must be a list of 2.*found \[1, 2, 3\]"),
        ("size: [1, x]", "size must be a whole number, found 'x'"),
        ("size: {a: 1}", r"size must be a list.*found \{'a': 1\}"),
        ("- steps", "expected 'option: value' lines, found a list"),
        ("steps: [", "not YAML"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        parse("--weights", "w", "--config", str(file))
    assert re.match(rf"{re.escape(str(file))}:\d+:\d+: ", str(caught.value))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml: no such configuration file"):
        parse("--config", str(tmp_path / "nothing.yaml"))
    binary = tmp_path / "model.pt"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(UsageError, match=r"model\.pt:1:1: not a YAML file"):
        parse("--config", str(binary))


def test_yaml_values_become_the_types_of_the_fields(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lr: 1\nsize: [4]\nother_kind: null\nweights: w.pt\n")
    settings = parse("--config", str(file))
    assert (settings.lr, settings.size, settings.other_kind) == (1.0, (4,), None)
    assert isinstance(settings.lr, float)


def test_a_number_with_an_exponent_needs_no_dot(tmp_path: Path) -> None:
    # YAML 1.1 takes 4e-5 for a word; whoever writes it means the number.
    file = tmp_path / "c.yaml"
    file.write_text("lr: 4e-5\nweights: w.pt\n")
    assert parse("--config", str(file)).lr == 4e-5


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(image_size=(96, 128), weight_decay=4e-5, amp=True, schedule="automl"),
        TrainConfig(),
        ValidateConfig(weights="w.pt"),
        PredictConfig(source=("a", "b"), weights="w", output="o", classes=("cat",)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_saved_settings_give_the_same_settings(config: Any, tmp_path: Path) -> None:
    flags.save_yaml(config, tmp_path / "config.yaml")
    values = flags.load_yaml(type(config), tmp_path / "config.yaml")
    assert flags.build(type(config), values) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_fit_the_training_settings(name: str) -> None:
    config = flags.parse(
        TrainConfig, ["--preset", name], program="train.py", description="", presets=PRESETS
    )
    for key, value in PRESETS[name].items():
        assert getattr(config, key) == value


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A field of every kind of value, each with a default."""

    runs: tuple[str, ...] = option(help="runs", positional=True, metavar="RUN")
    file: str = option("a.txt", help="text", metavar="FILE")
    name: str = option("", help="empty")
    sizes: tuple[int, ...] = option((3, 4), help="several")
    pair: tuple[float, float] = option((0.5, 4e-5), help="two")
    rate: float = option(600.0, help="a number")
    batch: int | Literal["auto"] = option(8, help="or a word")
    kinds: tuple[Literal["a", "b"], ...] = option(("b", "a"), help="words")
    yes: bool = option(True, help="a switch")
    no: bool = option(False, help="another")


def test_help_shows_values_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse(Shown, ["--help"], program="prog", description="")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "usage: prog RUN... [options]"
    assert lines[lines.index("positional arguments:") + 1] == "RUN runs"
    assert lines[lines.index("--debug print the traceback of an error") + 1 :] == [
        "--file FILE text (default: a.txt)",
        "--name NAME empty",
        "--sizes N ... several (default: 3 4)",
        "--pair X X two (default: 0.5 4e-5)",
        "--rate X a number (default: 600)",
        "--batch N|auto or a word (default: 8)",
        "--kinds {a,b} ... words (default: b a)",
        "--yes, --no-yes a switch (default: on)",
        "--no, --no-no another (default: off)",
    ]


def test_help_has_a_line_on_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert ABOUT.keys() == PRESETS.keys()
    with pytest.raises(SystemExit):
        flags.parse(
            TrainConfig, ["--help"], program="t", description="", presets=PRESETS,
            about_presets=ABOUT,
        )  # fmt: skip
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = lines.index("--preset NAME named set of values:") + 1
    assert lines[start : lines.index("data:") - 1] == [f"{n}: {ABOUT[n]}" for n in sorted(ABOUT)]


def test_help_shows_options_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    """A class's own options come first, then those that it shares with other programs."""
    with pytest.raises(SystemExit):
        flags.parse(TrainConfig, ["--help"], program="train.py", description="")
    text = capsys.readouterr().out
    places = [
        text.index(part)
        for part in ("usage: train.py [options]", "\ndata:\n", "--data DIR", "\noptimization:\n",
                     "--lr X", "\nfrom outputs to detections:\n", "--sigma X")
    ]  # fmt: skip
    assert places == sorted(places)
    with pytest.raises(SystemExit):
        flags.parse(PredictConfig, ["--help"], program="effdet predict", description="")
    assert "usage: effdet predict SOURCE... --weights FILE --output DIR [options]" in (
        capsys.readouterr().out
    )
