# SPDX-License-Identifier: Apache-2.0
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effdet.annotations import AnnotationError, fault_of_name, links
from effdet.data import CocoDataset

# Ways to say "elsewhere", on this system or on another one that reads the same file.
LEAVING = [
    "/etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "/",
    "..",
    "../a.png",
    "../../../../../../etc/passwd",
    "a/../../a.png",
    "a/../../../etc/passwd",
    "./../a.png",
    "a/..",
    "a/./../../b.png",
    "a//../../b.png",
    ".. /a.png",
    " ../a.png",
    ".../a.png",
    "..../a.png",
    ". ./a.png",
    "\\a.png",
    "..\\a.png",
    "a\\..\\..\\b.png",
    "C:\\a.png",
    "C:/a.png",
    "c:a.png",
    "C:",
    "\\\\server\\share\\a.png",
    "//server/share/a.png",
    "\\\\?\\C:\\a.png",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "http://example.org/a.png",
    "s3://bucket/a.png",
    "a.png\0.jpg",
    "\0",
    "\0/etc/passwd",
    "a\n../b.png",
    "\x1b[2J.png",
    "a\r.png",
    "a\u202egnp.exe",
    "\u2025/a.png",  # two points in one letter
    "\uff0e\uff0e/a.png",  # wide points
    "\uff0e\uff0e\uff0fa.png",  # and a wide slash
    "\uff0fetc/passwd",
    "..\uff0fa.png",
    "C\uff1a/a.png",
    ".",
    "./",
    "a/",
    "a/.",
    " ",
    "x" * 256 + ".png",
    "x/" * 2500 + "a.png",
    "ü" * 128,
]

STAYING = [
    "a.png",
    "train/a.png",
    "./a.png",
    "a/./b.png",
    "a//b.png",
    "a..b.png",
    "..a.png",
    "a...png",
    ".hidden.png",
    "~/a.png",
    "$HOME/a.png",
    "%2e%2e/a.png",
    "a b (1).png",
    "foto-ü-日本-\U0001f600.png",
    "2026-01-01T10:30:00.png",
    "-rf.png",
]


def tiny_image(path: Path) -> None:
    Image.new("RGB", (8, 6)).save(path, format="PNG")


def dataset(folder: Path, *names: str, **options: Any) -> CocoDataset:
    """A data set of the images ``names``, in ``folder/images``."""
    rows = [{"id": k, "file_name": n, "width": 8, "height": 6} for k, n in enumerate(names)]
    content = {"images": rows, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "images").mkdir(exist_ok=True)
    return CocoDataset(folder / "a.json", folder / "images", **options)


def refused(folder: Path, *names: str, **options: Any) -> str:
    with pytest.raises(AnnotationError) as caught:
        dataset(folder, *names, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix(f"{folder / 'a.json'}: ")


@pytest.mark.parametrize("name", LEAVING, ids=ascii)
def test_a_name_that_may_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert len(LEAVING) >= 30
    message = refused(tmp_path, name)
    assert message.startswith("images[0].file_name: expected a path within the image folder, found")
    assert message.endswith("(image 0)")


@pytest.mark.parametrize("name", STAYING, ids=ascii)
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    assert fault_of_name(name) is None
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny_image(path)
    assert dataset(tmp_path, name).load(0)[0].shape == (3, 6, 8)


def test_names_of_other_forms_are_refused_by_themselves() -> None:
    for name in LEAVING:
        assert fault_of_name(name), ascii(name)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """``tmp_path/outside`` with an image; ``tmp_path/data`` for the data set."""
    for folder in ("outside/sub", "data/images/sub"):
        (tmp_path / folder).mkdir(parents=True)
    tiny_image(tmp_path / "outside" / "a.png")
    tiny_image(tmp_path / "data" / "images" / "sub" / "in.png")
    return tmp_path / "outside"


def test_links_that_leave_the_folder_are_refused_unless_they_are_to_be_followed(
    outside: Path,
) -> None:
    data, images = outside.parent / "data", outside.parent / "data" / "images"
    (images / "file.png").symlink_to(outside / "a.png")
    (images / "relative.png").symlink_to("../../outside/a.png")
    (images / "folder").symlink_to(outside)
    (images / "chain.png").symlink_to("relative.png")
    (images / "sub" / "up").symlink_to("../..")
    names = ("file.png", "relative.png", "folder/a.png", "chain.png", "sub/up/../images/sub/in.png")
    for name in names[:4]:
        message = refused(data, name)
        expected = f"images[0].file_name: expected {links.EXPECTED}, found the link {images}/"
        assert message.startswith(expected)
        assert f" to {outside}" in message
        assert dataset(data, name, follow_links=True).load(0)[0].shape == (3, 6, 8)
    assert "a way out of the folder" in refused(data, names[4], follow_links=True)


def test_links_within_the_folder_and_the_folder_itself_may_be_links(outside: Path) -> None:
    data, images = outside.parent / "data", outside.parent / "data" / "images"
    (images / "link.png").symlink_to("sub/in.png")
    (images / "folder").symlink_to("sub")
    assert len(dataset(data, "link.png", "folder/in.png", "sub/in.png")) == 3
    other = outside.parent / "other"
    other.mkdir()
    (other / "images").symlink_to(images)
    assert len(dataset(other, "link.png", "folder/in.png")) == 2


def test_a_neighbour_whose_name_only_begins_alike_is_outside(outside: Path) -> None:
    data = outside.parent / "data"
    (data / "images2").mkdir()
    tiny_image(data / "images2" / "a.png")
    (data / "images" / "a.png").symlink_to(data / "images2" / "a.png")
    assert f"the link {data}/images/a.png to {data}/images2/a.png" in refused(data, "a.png")


def test_what_is_no_file_is_refused(outside: Path) -> None:
    data, images = outside.parent / "data", outside.parent / "data" / "images"
    os.mkfifo(images / "pipe.png")
    (images / "broken.png").symlink_to("nothing.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder.png").mkdir()
    names = ("pipe.png", "broken.png", "loop.png", "folder.png", "none.png", "no/such/folder.png")
    message = refused(data, "sub/in.png", *names)
    assert message.startswith("6 x missing image file: images[1].file_name: expected a file in ")
    assert message.count("expected") == 6
    assert "images[0]" not in message


def test_of_many_missing_files_the_first_twenty_are_named(tmp_path: Path) -> None:
    message = refused(tmp_path, *(f"{k}.png" for k in range(3000)))
    assert message.startswith("3,000 x missing image file: images[0].file_name: expected a file in")
    assert message.count("expected") == 20
    assert message.endswith("; and 2,980 more")
