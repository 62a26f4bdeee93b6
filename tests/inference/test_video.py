# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.errors import DataError, UsageError
from effdet.inference import VideoSource, expand_sources, import_av
from effdet.inference.video import VideoReader

from .videos import NUM_FRAMES, RATE, frames_of, make_sound, make_video, turn


def reader(path: Path, **settings: float) -> VideoReader:
    return VideoReader(source=VideoSource(path), **settings)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4")


def test_every_frame_comes_with_its_number_and_time(clip: Path) -> None:
    reading = reader(clip)
    frames = list(reading)
    assert [frame.number for frame in frames] == list(range(NUM_FRAMES))
    assert [frame.time for frame in frames] == pytest.approx([n / RATE for n in range(NUM_FRAMES)])
    for frame, pixels in zip(frames, frames_of(clip), strict=True):
        assert frame.image.dtype == torch.uint8
        assert torch.equal(frame.image, torch.from_numpy(pixels).permute(2, 0, 1))
    assert reading.facts.fault is None
    assert (reading.facts.rate, reading.facts.expected) == (RATE, NUM_FRAMES)


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"every": 7}, [0, 7, 14]),
        ({"max_frames": 3}, [0, 1, 2]),
        ({"every": 3, "max_frames": 2}, [0, 3]),
        ({"seconds": 0.35}, [0, 1, 2, 3]),
        ({"seconds": 0.35, "every": 2}, [0, 2]),
    ],
)
def test_only_wanted_frames_come(
    clip: Path, settings: dict[str, float], numbers: list[int]
) -> None:
    reading = reader(clip, **settings)
    assert [frame.number for frame in reading] == numbers
    assert reading.facts.fault is None
    if "seconds" not in settings:
        wanted = reading.facts.frames_wanted(
            settings.get("every", 1), settings.get("max_frames", 0)
        )
        assert wanted == len(numbers)


def test_a_video_taken_upright_is_upright(clip: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(clip.read_bytes())
    turn(turned)
    original, frame = next(iter(reader(clip))), next(iter(reader(turned)))
    assert torch.equal(frame.image, original.image.rot90(-1, (1, 2)))
    assert frame.image[0].float().sub(frame.image[1]).max() > 100  # the red thing is in it


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_what_comes_before_an_early_end_is_given(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, faststart=name == "clip.mp4", noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reading = reader(path)
    frames = list(reading)
    assert 8 <= len(frames) <= 14
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert reading.facts.fault is not None
    assert reading.facts.fault.startswith(f"{path}: the video ")
    assert "what was found is kept" in reading.facts.fault


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_what_comes_after_damage_is_given(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, noise=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    damage = np.random.default_rng(0).integers(0, 255, len(content) // 8, np.uint8)
    content[middle : middle + len(damage)] = damage.tobytes()
    path.write_bytes(content)
    reading = reader(path)
    times = [frame.time for frame in reading]
    assert 12 <= len(times) < NUM_FRAMES
    assert times[-1] == pytest.approx((NUM_FRAMES - 1) / RATE)
    assert reading.facts.fault is not None
    assert "is damaged" in reading.facts.fault


def test_a_limit_before_the_damage_finds_no_fault(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reading = reader(path, max_frames=5)
    assert len(list(reading)) == 5
    assert reading.facts.fault is None


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    for path, reason in (
        (tmp_path / "text.mp4", "cannot open the video"),
        (make_sound(tmp_path / "sound.mp4"), "there is no video in it"),
        (tmp_path / "none.mp4", "no such video file"),
        (tmp_path, "a folder, expected a video file"),
    ):
        with pytest.raises(DataError) as caught:
            list(reader(path))
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_playlist_leads_nowhere(clip: Path, tmp_path: Path) -> None:
    for name, text in (
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", f"ffconcat version 1.0\nfile '{clip}'\n"),
    ):
        for path in (tmp_path / name, tmp_path / f"{name}.mp4"):
            path.write_text(text)
            with pytest.raises(DataError, match="cannot open the video"):
                list(reader(path))


def test_a_name_that_looks_like_an_address_is_a_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("concat:a|b.mp4")
    path.write_bytes(clip.read_bytes())
    assert len(list(reader(path))) == NUM_FRAMES


def test_frames_with_too_many_pixels_are_refused(clip: Path) -> None:
    with pytest.raises(DataError, match="frames of 128 x 96 pixels, more than --max-pixels 100"):
        list(reader(clip, max_pixels=100))


@pytest.mark.skipif(Path("/dev/video97").exists(), reason="there is such a camera")
def test_a_camera_that_is_not_there_is_named() -> None:
    (camera,) = expand_sources(["webcam:97"])
    with pytest.raises(DataError, match="webcam:97: cannot open the video"):
        list(VideoReader(source=camera))


@pytest.mark.parametrize(
    ("platform", "device", "kind"),
    [
        ("linux", "/dev/video2", "v4l2"),
        ("darwin", "2", "avfoundation"),
        ("win32", "video=2", "dshow"),
    ],
)
def test_a_camera_is_opened_by_the_systems_own_input(
    monkeypatch: pytest.MonkeyPatch, clip: Path, platform: str, device: str, kind: str
) -> None:
    av = import_av()
    opened, open_file = [], av.open

    def record(name: str, format: str, timeout: float) -> object:
        opened.append((name, format))
        return open_file(str(clip))

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", record)
    (camera,) = expand_sources(["webcam:2"])
    assert camera.is_live
    assert len(list(VideoReader(source=camera, max_frames=2))) == 2
    assert opened == [(device, kind)]


def test_a_stream_may_not_lead_to_files(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    av = import_av()
    opened, open_file = [], av.open

    def record(name: str, **settings: object) -> object:
        opened.append((name, settings))
        return open_file(str(clip))

    monkeypatch.setattr(av, "open", record)
    (source,) = expand_sources(["rtsp://me:secret@127.0.0.1/door"])
    assert len(list(VideoReader(source=source, max_frames=2))) == 2
    ((name, settings),) = opened
    assert name == "rtsp://me:secret@127.0.0.1/door"
    assert "file" not in settings["options"]["protocol_whitelist"].split(",")
    assert settings["timeout"]
    assert "secret" not in str(source)


def test_a_stream_that_nobody_sends_is_named_without_its_password() -> None:
    (source,) = expand_sources(["rtsp://me:secret@127.0.0.1:9/door"])
    with pytest.raises(DataError, match=r"rtsp://127\.0\.0\.1:9/door: cannot open") as caught:
        list(VideoReader(source=source))
    assert "secret" not in str(caught.value)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        UsageError, match=r"the package av.*pip install av \(the extra .*\[video\]\)"
    ):
        list(reader(clip))
