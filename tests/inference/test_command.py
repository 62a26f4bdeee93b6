# SPDX-License-Identifier: Apache-2.0
"""``effdet predict`` from its words to its exit code."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from effdet import cli, flags
from effdet.commands import predict
from effdet.errors import DataError, EffdetError, UsageError
from effdet.inference import Detector
from effdet.settings import FOR_PEOPLE, PredictConfig
from effdet.structures import ClassMap

from .conftest import CONFIG, ColorModel, picture
from .videos import NUM_FRAMES, make_video

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(predict, "load", lambda *_, **__: detector)
    picture(("red", (40, 30, 120, 90)), size=(200, 140)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*words: str | Path) -> None:
    cli.run_command(["predict", *map(str, words), "--weights", "runs/mine/best.pt"])


def test_it_tells_what_was_found_how_fast_and_what_is_next(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photo, "--output", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1 detection in 1 image \(\d+\.\d images/s\)", lines[0])
    assert lines[1] == f"pictures and json in {tmp_path / 'out'}"
    assert lines[2] == "next: effdet export runs/mine/best.pt --format onnx"


def test_where_nothing_is_found_the_highest_score_is_told(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photo, "--output", tmp_path / "a", "--score-threshold", "0.99")
    assert "nothing was found: the highest score is 0.953; a lower" in capsys.readouterr().out


def test_of_a_video_the_highest_score_is_that_of_its_first_frames(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [make_video(tmp_path / "clip.mp4"), "--score-threshold", "0.99"]
    run(*words, "--output", tmp_path / "a")
    text = capsys.readouterr().out
    assert re.search(r"nothing was found: the highest score in the first 8 frames is 0\.9\d", text)
    run(*words, "--output", tmp_path / "b", "--max-frames", "2")
    text = capsys.readouterr().out
    assert re.search(r"nothing was found: the highest score is 0\.9\d", text)


def test_a_second_look_is_as_the_first_and_changes_no_setting(
    photo: Path, tmp_path: Path, detector: Detector, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--score-threshold", "0.99", "--tta", "--tile", "150"]
    run(photo, "--output", tmp_path / "a", *words)
    looks = detector.model.sizes
    assert looks[: len(looks) // 2] == looks[len(looks) // 2 :]
    assert detector.postprocess == FOR_PEOPLE
    assert "nothing was found: the highest score is" in capsys.readouterr().out


def test_a_file_with_a_threshold_of_its_own_is_to_be_exported_again(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Detector, "own_threshold", 0.97)
    run(photo, "--output", tmp_path / "a", "--score-threshold", "0.99")
    text = capsys.readouterr().out
    assert "the file holds no score up to 0.97" in text
    assert "`effdet export --detections --score-threshold`" in text


def test_the_next_command_says_that_code_is_trusted(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(photo), "--output", str(tmp_path / "o"), "--weights", "my a.PT2"]
    cli.run_command([*words, "--trust-code"])
    assert "next: effdet benchmark 'my a.PT2' --trust-code\n" in capsys.readouterr().out


def test_a_class_may_be_named_in_another_case(photo: Path, tmp_path: Path) -> None:
    run(photo, "--output", tmp_path / "out", "--classes", "Red Thing")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["name"] for row in content["images"][0]["detections"]] == ["red thing"]


def test_a_class_in_a_case_that_two_classes_have_is_unknown() -> None:
    names = ClassMap(("Dog", "dog", "cat"), (1, 2, 3))
    detector = Detector(ColorModel(CONFIG), CONFIG, names)
    named = detector.build_postprocess(["dog", "CAT"]).class_map
    assert named is not None
    assert named.names == (None, "dog", "cat")
    with pytest.raises(UsageError, match="unknown class 'DOG'"):
        detector.build_postprocess(["DOG"])


def test_options_reach_their_parts(photo: Path, tmp_path: Path, detector: Detector) -> None:
    clip = make_video(tmp_path / "clip.mp4")
    words = ["--every", "3", "--max-frames", "4", "--seconds", "1.0", "--workers", "1"]
    words += ["--save", "json", "yolo", "--yolo-scores", "--tta", "--batch-size", "2"]
    words += ["--tile", "150", "--tile-overlap", "0.5", "--score-threshold", "0.1"]
    run(clip, photo, "--output", tmp_path / "out", *words)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["videos"][0]["num_frames"] == 4
    settings = content["settings"]
    assert (settings["tta"], settings["tile"], settings["tile_overlap"]) == (True, 150, 0.5)
    assert settings["score_threshold"] == 0.1
    (label,) = (tmp_path / "out" / "labels" / "photo.txt").read_text().splitlines()
    assert len(label.split()) == 6
    assert max(detector.model.batches) == 2
    assert len(set(detector.model.sizes)) == 3
    lines = (tmp_path / "out" / "clip.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--annotations", "a.json"], "--annotations needs --save coco"),
        (["--yolo-scores"], "--yolo-scores needs --save yolo"),
        (["--tile-overlap", "0.3"], "--tile-overlap needs --tile"),
        (["--tile", "10"], "tile must be at least 32 pixels"),
        (["--tile", "64", "--tile-overlap", "1"], "--tile-overlap must be in"),
        (["--every", "0"], "--every must be above 0"),
        (["--every", "2"], "--every does nothing without a video"),
        (["--max-frames", "-1"], "--max-frames must be at least 0"),
        (["--seconds", "nan"], "--seconds must be at least 0"),
        (["--seconds", "3"], "--seconds does nothing without a video"),
        (["--workers", "65"], r"--workers must be in \[0, 64\]"),
        (["--save", "png"], "must be one of pictures, json, coco, csv, yolo, crops, found 'png'"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(
    photo: Path, tmp_path: Path, words: list[str], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        run(photo, "--output", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_bad_sources_are_one_line_and_exit_by_kind(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = make_video(tmp_path / "cut.mkv", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("text")
    for word, kind, leaves in (
        (cut, DataError, True),
        (tmp_path / "text.mp4", DataError, False),
        ("webcam:97", DataError, False),
        ("http://192.0.2.1/a.jpg", DataError, False),
        (tmp_path / "none.mp4", DataError, False),
    ):
        output = tmp_path / f"out {Path(word).name}"
        with pytest.raises(EffdetError) as caught:
            run(word, "--output", output)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert output.exists() == leaves
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"\[video\]"):
        run(cut, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_of_a_clip_is_found_by_default(photo: Path, tmp_path: Path) -> None:
    run(make_video(tmp_path / "clip.mp4"), "--output", tmp_path / "out")
    assert len((tmp_path / "out" / "clip.jsonl").read_text().splitlines()) == NUM_FRAMES


def documented() -> list[list[str]]:
    text = (ROOT / "docs" / "prediction.md").read_text().replace("\\\n", " ")
    lines = [line.split("#")[0] for line in text.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("effdet predict ")]


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_every_documented_command_has_options_that_exist(words: list[str]) -> None:
    flags.parse(PredictConfig, words, program="effdet predict", description="")


def test_the_documentation_names_every_option_of_its_own() -> None:
    text = (ROOT / "docs" / "prediction.md").read_text()
    of_prediction = [
        "save", "annotations", "yolo-scores", "classes", "tta", "tile", "tile-overlap", "every",
        "max-frames", "seconds", "workers", "batch-size", "max-pixels", "nms", "score-threshold",
    ]  # fmt: skip
    assert [name for name in of_prediction if f"--{name}" not in text] == []


def test_the_documented_python_runs(
    photo: Path, tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    import effdet

    text = (ROOT / "docs" / "prediction.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    make_video(tmp_path / "clip.mp4", num_frames=12)
    photo.rename(tmp_path / "photo.jpg")
    detector.class_map = type(detector.class_map)(("dog", None, "cat"), (1, None, 2))
    monkeypatch.setattr(effdet, "load", lambda *_: detector, raising=False)
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(block, values)
    assert values["detections"]
