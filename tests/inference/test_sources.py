# SPDX-License-Identifier: Apache-2.0
import shlex
from pathlib import Path

import pytest

from effdet.errors import DataError
from effdet.inference import ImageSource, VideoSource, expand_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.dat", "._a.png", "inner/c.webp", "odd[1].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(folder: Path, *words: str) -> list[str]:
    found = expand_sources([folder / word for word in words])
    return [str(Path(source.place).relative_to(folder)) for source in found]


def test_a_folder_gives_the_images_right_in_it_by_name(folder: Path) -> None:
    assert names(folder, "") == ["a.png", "b.JPG", "odd[1].png"]


def test_a_pattern_gives_the_images_that_fit(folder: Path) -> None:
    assert names(folder, "*") == ["a.png", "b.JPG", "odd[1].png"]
    assert names(folder, "**/*.webp") == ["inner/c.webp"]


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert names(folder, "notes.dat", "odd[1].png") == ["notes.dat", "odd[1].png"]


def test_each_file_comes_once_in_the_order_of_the_words(folder: Path) -> None:
    assert names(folder, "b.JPG", "*.png", "a.png", "") == ["b.JPG", "a.png", "odd[1].png"]


@pytest.mark.parametrize("word", ["none.png", "*.tiff", "inner/none"])
def test_a_word_that_gives_nothing_is_named(folder: Path, word: str) -> None:
    with pytest.raises(DataError) as error:
        expand_sources([folder / "a.png", folder / word])
    assert word in str(error.value)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image files here \(.*\)$"):
        expand_sources([tmp_path])
    image = tmp_path / "b" / "val" / "1.jpg"
    image.parent.mkdir(parents=True)
    image.with_name("._1.jpg").touch()  # of another program
    with pytest.raises(DataError, match=r"no image files here \(.*\)$"):
        expand_sources([tmp_path])
    image.touch()
    with pytest.raises(DataError, match=f"there are some in {image.parent}: name .* all by") as e:
        expand_sources([tmp_path])
    (pattern,) = shlex.split(str(e.value).rpartition(" all by ")[2])
    assert [str(source) for source in expand_sources([pattern])] == [str(image)]
    with pytest.raises(DataError, match="no image was given"):
        expand_sources([])


def test_a_link_that_leads_nowhere_is_not_passed_over(folder: Path) -> None:
    (folder / "lost.png").symlink_to(folder / "gone.png")
    (folder / "folder.png").mkdir()
    assert names(folder, "") == ["a.png", "b.JPG", "lost.png", "odd[1].png"]


def test_videos_are_told_by_their_ending_and_a_folder_gives_images_alone(folder: Path) -> None:
    (folder / "clip.MP4").touch()
    assert names(folder, "") == ["a.png", "b.JPG", "odd[1].png"]
    assert expand_sources([folder / "clip.MP4"]) == [VideoSource(folder / "clip.MP4")]
    assert VideoSource(folder / "clip.MP4") in expand_sources([folder / "*"])
    assert expand_sources(["video:" + str(folder / "notes.dat")]) == [
        VideoSource(folder / "notes.dat")
    ]


@pytest.mark.parametrize(
    ("word", "kind", "is_live"),
    [
        ("https://example.org/a.jpg?token=1", ImageSource, None),
        ("https://example.org/image/17", ImageSource, None),
        ("http://127.0.0.1:1/clip.mp4", VideoSource, False),
        ("https://example.org/live/index.m3u8?x=1", VideoSource, False),
        ("video:http://192.0.2.1:8080/video", VideoSource, False),
        ("rtsp://192.0.2.1/door", VideoSource, True),
        ("webcam:0", VideoSource, True),
    ],
)
def test_addresses_and_cameras_are_told_by_their_words(
    word: str, kind: type, is_live: bool | None
) -> None:
    (source,) = expand_sources([word])
    assert type(source) is kind
    assert source.place == word.removeprefix("video:")
    assert getattr(source, "is_live", None) == is_live


def test_an_address_is_shown_without_what_is_secret() -> None:
    (source,) = expand_sources(["rtsp://me:secret@192.0.2.1:554/door?key=secret"])
    assert str(source) == "rtsp://192.0.2.1:554/door"


def test_a_list_names_sources_beside_it_and_elsewhere(folder: Path) -> None:
    (folder / "inner" / "list.txt").write_text(
        f"c.webp\n\n../*.png\r\n  {folder / 'b.JPG'}  \nhttps://example.org/a.jpg\nwebcam:1\n"
    )
    found = expand_sources([folder / "inner" / "list.txt"])
    assert [str(source) for source in found] == [
        str(folder / "inner" / "c.webp"),
        str(folder / "inner" / ".." / "a.png"),
        str(folder / "inner" / ".." / "odd[1].png"),
        str(folder / "b.JPG"),
        "https://example.org/a.jpg",
        "webcam:1",
    ]


def test_a_bad_line_of_a_list_is_named(folder: Path) -> None:
    (folder / "list.txt").write_text("a.png\nnone\x1b.png\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: .*none\\x1b\.png: no such file"):
        expand_sources([folder / "list.txt"])
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: no images are listed here"):
        expand_sources([folder / "empty.txt"])


def test_lists_do_not_lead_to_lists(folder: Path) -> None:
    (folder / "list.txt").write_text("list.txt\n")
    assert expand_sources([folder / "list.txt"]) == [ImageSource(folder / "list.txt")]
