# SPDX-License-Identifier: Apache-2.0
"""CSV: what is read, and what is refused."""

from pathlib import Path

import pytest

from effdet.annotations import AnnotationError
from effdet.data import find_splits, locate_split, read_split
from effdet.data.formats import salvage_split
from effdet.structures import ClassMap
from tests.data.formats.making import csv_folder, picture, read_train, text, train_faults

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "a.jpg,100,50,dog,1,2,31,42\nb.jpg,100,50,,,,,\n",
        "class,Image Path,x1,y1,x2,y2\ndog,a.jpg,1,2,31,42\n,b.jpg,,,,\n",
        "a.jpg,1,2,31,42,dog\nb.jpg,,,,,\n",
        "b.jpg,,,,,\n./a.jpg,1,2,31,42,dog\n",
        "\ufeffimage,xmin,ymin,xmax,ymax,label,note\n"
        '"a.jpg",1,2,31,42,dog,"two\nlines"\nb.jpg,,,,,,\n',
    ],
)
def test_known_headers_and_none_are_read(tmp_path: Path, content: str) -> None:
    table = read_train(csv_folder(tmp_path, content))
    assert table.boxes.tolist() == [[1, 2, 30, 40]]
    assert sorted(table.file_names) == ["a.jpg", "b.jpg"]
    assert table.file_names[table.image_index[0]] == "a.jpg"
    assert table.sizes.tolist() == [[50, 100], [50, 100]]
    assert table.category_names == ("dog",)


def test_a_recorded_side_stays_where_another_one_is_wrong(tmp_path: Path) -> None:
    content = HEADER + "a.jpg,1000000,50,dog,1,2,31,42\nb.jpg,x,50,dog,1,2,31,42\n"
    table, faults = salvage_split(find_splits(csv_folder(tmp_path, content))["train"])
    assert faults.counts == {"image-size": 1}
    assert table is not None
    assert table.sizes.tolist() == [[50, 1_000_000], [50, 100]]


def test_lines_of_an_image_may_stand_anywhere(tmp_path: Path) -> None:
    content = "a.jpg,1,2,3,4,dog\nb.jpg,1,2,3,4,cat\na.jpg,5,6,7,8,cat\n"
    table = read_train(csv_folder(tmp_path, content))
    assert table.image_index.tolist() == [0, 1, 0]
    assert table.place(2, "bbox") == "line 3"


def test_files_of_splits_share_their_classes(tmp_path: Path) -> None:
    csv_folder(tmp_path, "a.jpg,1,2,3,4,dog\n")
    text(tmp_path / "valid.csv", "b.jpg,1,2,3,4,ant\n")
    text(tmp_path / "notes.csv", "who,what\nme,this\n")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    table = read_split(splits["val"])
    assert table.category_names == ("ant", "dog")
    assert table.category_index.tolist() == [0]


def test_a_column_may_name_the_split(tmp_path: Path) -> None:
    content = "filename,x1,y1,x2,y2,label,split\na.jpg,1,2,3,4,dog,train\nb.jpg,1,2,3,4,ant,VALID\n"
    csv_folder(tmp_path, content)
    (tmp_path / "train.csv").rename(tmp_path / "boxes.csv")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    for name, image in (("train", "a.jpg"), ("val", "b.jpg")):
        table = read_split(splits[name])
        assert list(table.file_names) == [image]
        assert table.category_names == ("ant", "dog")


def test_files_beside_their_images_are_found(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        picture(tmp_path / folder / "a.jpg")
        text(tmp_path / folder / "_annotations.csv", HEADER + "a.jpg,100,50,dog,1,2,3,4\n")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    assert splits["val"].images == tmp_path / "valid"
    read_split(splits["val"])


def test_explicit_paths_are_read(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path, "a.jpg,1,2,3,4,dog\n")
    (folder / "train.csv").rename(folder / "mine.csv")
    for files in (
        locate_split(None, "train", folder / "mine.csv", folder / "images"),
        locate_split(folder, "train", folder / "mine.csv"),
    ):
        assert (files.format, files.images) == ("csv", folder / "images")
        assert len(read_split(files).boxes) == 1


def test_absolute_paths_into_the_image_folder_are_taken(tmp_path: Path) -> None:
    name = f"{tmp_path}/images/a.jpg"
    files = locate_split(
        csv_folder(tmp_path, f"{name},1,2,3,4,dog\n"), "train", images=tmp_path / "images"
    )
    assert list(read_split(files).file_names) == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "kind", "place"),
    [
        ("a.jpg,100,50,dog,1,2,x,4", "box", "line 2 xmax"),
        ("a.jpg,100,50,dog,1,2,,4", "box", "line 2 xmax"),
        ("a.jpg,100,50,dog,1,2,inf,4", "box", "line 2 xmax"),
        ("a.jpg,100,50,,1,2,3,4", "category-name", "line 2 class"),
        ("a.jpg,100,50,dog,,,,", "box", "line 2 xmin"),
        ("a.jpg,100,50,dog,1,2,3", "fields", "line 2"),
        (",100,50,dog,1,2,3,4", "file-name", "line 2 image"),
        ("../a.jpg,100,50,dog,1,2,3,4", "file-name", "line 2 image"),
        ("/etc/passwd,100,50,dog,1,2,3,4", "file-name", "line 2 image"),
        ("c.jpg,100,50,dog,1,2,3,4", "missing-file", "line 2 image"),
        ("a.jpg,1.5,50,dog,1,2,3,4", "image-size", "line 2 width"),
        ('a.jpg,100,50,"dog,1,2,3,4', "fields", "line 2"),
        ("a.jpg,100,50,dog,.1,.2,.3,.4", "number", "line 2"),
        ("a.jpg,100,50,d\xf6g,1,2,3,4", "encoding", "line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, kind: str, place: str) -> None:
    folder = csv_folder(tmp_path, HEADER + "b.jpg,100,50,,,,,\n")
    text(folder / "train.csv", (HEADER + line + "\n").encode("latin-1"))
    assert train_faults(folder)[0][:2] == (kind, place)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            "filename,xmin,ymin,xmax,ymax,class,XMIN",
            "one column for xmin, found 'xmin' as field 2 and 'XMIN' as field 7",
        ),
        (
            "class,filename,x1,y1,x2,y2,class",
            "one column for class, found 'class' as field 1 and 'class' as field 7",
        ),
        (
            "label,filename,x1,y1,x2,y2,Class",
            "one column for class, found 'label' as field 1 and 'Class' as field 7",
        ),
        (
            "filename,x1,y1,x2,y2,label,ymax",
            "one column for ymax, found 'y2' as field 5 and 'ymax' as field 7",
        ),
    ],
)
def test_a_column_that_stands_there_twice_is_refused_with_both_places(
    tmp_path: Path, header: str, found: str
) -> None:
    folder = csv_folder(tmp_path, f"{header}\na.jpg,1,2,3,4,dog,5\n")
    with pytest.raises(AnnotationError, match=rf"train.csv: line 1: expected {found}$"):
        read_split(find_splits(folder)["train"])


def test_columns_that_are_not_read_may_stand_there_twice(tmp_path: Path) -> None:
    content = "filename,x1,y1,x2,y2,class,note,note\na.jpg,1,2,3,4,dog,5,6\n"
    assert read_train(csv_folder(tmp_path, content)).category_names == ("dog",)


@pytest.mark.parametrize(("word", "found"), [("dev", "'dev'"), ("", "nothing")])
def test_a_split_that_nothing_reads_is_a_fault_of_every_split(
    tmp_path: Path, word: str, found: str
) -> None:
    lines = f"a.jpg,1,2,3,4,dog,train\nb.jpg,1,2,3,4,ant,valid\na.jpg,5,6,7,8,dog,{word}\n"
    csv_folder(tmp_path, "filename,x1,y1,x2,y2,label,split\n" + lines)
    (tmp_path / "train.csv").rename(tmp_path / "boxes.csv")
    splits = find_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    expected = f"line 4 split: expected train, val or test, found {found}"
    for files in splits.values():
        with pytest.raises(AnnotationError, match=expected):
            read_split(files)


def test_a_file_of_other_columns_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path, "who,what\nme,this\n")
    files = locate_split(None, "train", folder / "train.csv", folder / "images")
    with pytest.raises(AnnotationError, match=r"line 1: expected a header with filename/.*'who,wh"):
        read_split(files)


def test_case_tells_classes_apart(tmp_path: Path) -> None:
    table = read_train(csv_folder(tmp_path, "a.jpg,1,2,3,4,dog\nb.jpg,1,2,3,4,Dog\n"))
    assert table.category_names == ("Dog", "dog")


def test_classes_of_a_model_give_the_ids_by_name(tmp_path: Path) -> None:
    files = find_splits(csv_folder(tmp_path, "a.jpg,1,2,3,4,dog\nb.jpg,1,2,3,4,dgo\n"))["train"]
    model = ClassMap(names=("cat", "dog"), category_ids=(17, 18))
    with pytest.raises(AnnotationError, match=r"line 2 class: .* found 'dgo'; did you mean dog\?$"):
        read_split(files, model)
    text(files.annotations, "a.jpg,1,2,3,4,dog\n")
    assert read_split(files, model).category_ids.tolist() == [18]
