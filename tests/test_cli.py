# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import effdet
from effdet import cli
from effdet.commands import info
from effdet.config import MODELS, model_config
from effdet.errors import UsageError
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint, save_checkpoint


def exit_code(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    """What ``effdet ARGV`` leaves with."""
    monkeypatch.setattr(sys, "argv", ["effdet", *argv])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh Lite0 for 64 x 64 pixels that is sure of a "cat" everywhere."""
    torch.manual_seed(0)
    config = model_config("efficientdet_lite0", image_size=(64, 64), num_classes=2)
    model = build_model(config)
    with torch.no_grad():
        model.class_head.predict.pointwise.bias.copy_(torch.tensor([3.0, -9.0]).repeat(9))
    checkpoint = Checkpoint(
        model_config=config,
        class_map=ClassMap(("cat", "dog"), (1, 2)),
        model=model.state_dict(),
        ema=None,
        metrics={},
        training={},
    )
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(checkpoint, path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(path)
    return path


def test_info_gives_programs_every_model_with_its_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert info.MODELS is MODELS
    names = ["efficientdet_d0", "efficientdet_lite2"]  # counting in all would take long
    monkeypatch.setattr(info, "MODELS", {name: MODELS[name] for name in names})
    cli.run_command(["info", "--json"])
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert list(models) == names
    assert models["efficientdet_d0"] == {
        "name": "efficientdet_d0",
        "backbone": "efficientnet_b0",
        "image_size": [512, 512],
        "parameters": 3880067,
        "multiply_adds": pytest.approx(2.4923e9, rel=1e-4),
        "anchors": 49104,
        "num_classes": 90,
    }
    assert models["efficientdet_lite2"]["anchors"] == 37629


def test_info_gives_people_the_same_in_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "MODELS", {"efficientdet_d0": MODELS["efficientdet_d0"]})
    cli.run_command(["info"])
    header, row = capsys.readouterr().out.splitlines()[:2]
    assert header.split()[:3] == ["name", "backbone", "image"]
    assert row.split() == [
        "efficientdet_d0", "efficientnet_b0", "512", "x", "512", "3,880,067", "2.492", "G",
        "49,104",
    ]  # fmt: skip


def test_info_tells_which_kernels_are_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run_command(["info", "--build", "--json"])
    build = json.loads(capsys.readouterr().out)
    cli.run_command(["info", "--build"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(build)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run_command(argv)
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"  {name} " in text


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run_command(["--version"])
    assert capsys.readouterr().out.strip() == effdet.__version__


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run_command([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: effdet {name}" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown command 'predcit'; did you mean predict"):
        cli.run_command(["predcit"])


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown option --jsno; did you mean --json"):
        cli.run_command(["info", "--jsno"])


def test_exit_codes_tell_whose_fault_it_was(
    monkeypatch: pytest.MonkeyPatch,
    weights: Path,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "out")
    predict = ("predict", str(picture), "--device", "cpu", "--output", output, "--weights")
    assert exit_code(monkeypatch, "--version") == 0
    assert exit_code(monkeypatch, "nothing") == 2
    assert exit_code(monkeypatch, *predict, str(weights), "--iou-threshold", "2") == 2
    assert exit_code(monkeypatch, *predict, str(weights), "--classes", "cta") == 2
    assert "did you mean cat" in capsys.readouterr().err
    assert exit_code(monkeypatch, *predict, str(tmp_path / "no.pt")) == 4
    assert f"effdet: error: {tmp_path / 'no.pt'}: no such weights file" in capsys.readouterr().err
    missing = str(tmp_path / "no.png")
    words = ("predict", missing, "--output", output, "--weights", str(weights))
    assert exit_code(monkeypatch, *words) == 3
    assert "no.png" in capsys.readouterr().err


def test_predict_writes_a_picture_and_one_json(weights: Path, picture: Path) -> None:
    """The installed program's own entry, in a process of its own."""
    output = picture.parent / "found"
    words = ["predict", picture, "--weights", weights, "--output", output, "--device", "cpu"]
    words += ["--max-detections", "5", "--score-threshold", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "effdet.cli", *map(str, words)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "5 detections in 1 image " in done.stdout
    assert sorted(path.suffix for path in output.iterdir()) == [".json", ".png"]
    text = (output / "predictions.json").read_text()
    assert text.count('"cat"') >= 1
    with Image.open(next(output.glob("*.png"))) as drawn:
        assert drawn.size == (80, 60)
        assert drawn.convert("RGB").getcolors() != [(80 * 60, (200, 30, 30))]


def test_the_public_names_do_the_same_in_python(weights: Path, picture: Path) -> None:
    detector = effdet.load(weights, device="cpu")
    found = detector.predict(picture, score_threshold=0.5, max_detections=5)
    assert len(found) == 5
    assert found.labels.tolist() == [0] * 5
    assert found.scores[0].item() == pytest.approx(0.9526, abs=0.01)  # sigmoid(3)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([80, 60, 80, 60])).all()
