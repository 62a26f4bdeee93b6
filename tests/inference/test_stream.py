# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from effdet.errors import DataError, UsageError
from effdet.inference import Detector, ReadSettings

from .conftest import picture
from .videos import NUM_FRAMES, RATE, make_video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_frame_comes_with_all_one_needs(
    detector: Detector, clip: Path, batch_size: int, workers: int
) -> None:
    read = ReadSettings(workers=workers)
    found = list(detector.stream(clip, batch_size=batch_size, read=read))
    assert [one.frame for one in found] == list(range(NUM_FRAMES))
    assert [one.time for one in found] == pytest.approx([n / RATE for n in range(NUM_FRAMES)])
    for one in found[:5]:
        assert one.file == str(clip)
        alone = detector.predict(one.image)
        assert_close(one.detections.boxes, alone.boxes)
        assert len(alone) == 1


def test_images_and_videos_come_in_their_order(
    detector: Detector, clip: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        picture(("red", (40, 30, 120, 90)), size=(200, 140)).save(tmp_path / name)
    words = [tmp_path / "b.png", clip, tmp_path / "a.png"]
    found = list(detector.stream(words, read=ReadSettings(max_frames=2), batch_size=3))
    assert [(Path(one.file).name, one.frame) for one in found] == [
        ("b.png", None), ("clip.mp4", 0), ("clip.mp4", 1), ("a.png", None),
    ]  # fmt: skip
    assert torch.equal(found[0].detections.boxes, detector.predict(tmp_path / "b.png").boxes)


def test_ways_to_look_and_settings_reach_the_model(detector: Detector, clip: Path) -> None:
    read = ReadSettings(max_frames=1)
    (one,) = detector.stream(clip, read=read, tta=True, score_threshold=0.99)
    assert len(detector.model.sizes) == 6
    assert len(one.detections) == 0
    with pytest.raises(UsageError, match="unknown setting"):
        detector.stream(clip, threshold=1)


def test_an_early_end_is_told_after_all_frames(detector: Detector, tmp_path: Path) -> None:
    cut = make_video(tmp_path / "cut.mkv", noise=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    frames = []
    found = detector.stream(cut, batch_size=4)
    with pytest.raises(DataError, match=r"cut\.mkv: the video ends early"):
        frames.extend(one.frame for one in found)
    assert frames == list(range(len(frames)))
    assert len(frames) > 5


def test_a_missing_package_is_told_at_once(
    detector: Detector, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"\[video\]"):
        detector.stream(clip)
