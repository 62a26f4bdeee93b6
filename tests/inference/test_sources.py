# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from effdet.errors import DataError
from effdet.inference import expand_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", "inner/c.webp", "odd[1].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(folder: Path, *words: str) -> list[str]:
    found = expand_sources([folder / word for word in words])
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_gives_the_images_right_in_it_by_name(folder: Path) -> None:
    assert names(folder, "") == ["a.png", "b.JPG", "odd[1].png"]


def test_a_pattern_gives_the_images_that_fit(folder: Path) -> None:
    assert names(folder, "*") == ["a.png", "b.JPG", "odd[1].png"]
    assert names(folder, "**/*.webp") == ["inner/c.webp"]


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert names(folder, "notes.txt", "odd[1].png") == ["notes.txt", "odd[1].png"]


def test_each_file_comes_once_in_the_order_of_the_words(folder: Path) -> None:
    assert names(folder, "b.JPG", "*.png", "a.png", "") == ["b.JPG", "a.png", "odd[1].png"]


@pytest.mark.parametrize("word", ["none.png", "*.tiff", "inner/none"])
def test_a_word_that_gives_nothing_is_named(folder: Path, word: str) -> None:
    with pytest.raises(DataError) as error:
        expand_sources([folder / "a.png", folder / word])
    assert word in str(error.value)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image files"):
        expand_sources([tmp_path])
    with pytest.raises(DataError, match="no image was given"):
        expand_sources([])


def test_a_link_that_leads_nowhere_is_not_passed_over(folder: Path) -> None:
    (folder / "lost.png").symlink_to(folder / "gone.png")
    (folder / "folder.png").mkdir()
    assert names(folder, "") == ["a.png", "b.JPG", "lost.png", "odd[1].png"]
