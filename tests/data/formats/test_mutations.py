# SPDX-License-Identifier: Apache-2.0
"""Files with a few bytes changed: read, or refused with a line, never anything else."""

from pathlib import Path

import numpy as np
import pytest

from effdet.annotations import fit_boxes
from effdet.data import collect_split, locate_split
from effdet.errors import EffdetError, one_line
from tests.data.formats.making import (
    csv_folder,
    text,
    voc_folder,
    voc_object,
    voc_xml,
    yolo_folder,
)

PIECES = [
    b"7", b"3", b"1", b"a",
    b"\x00", b"\xff", b"\n", b",", b'"', b"'", b"<", b">", b"&", b"/", b"../", b"-1", b"1e999",
    b"nan", b"9" * 30, b":", b"[", b"{", b"*a", b"&a", b"!!x", b" ", b"\xef\xbb\xbf",
    b"<!DOCTYPE a>", b"&lt;", b"]]>", b"<![CDATA[", b"\\", b"\xe2\x80\xae",
]  # fmt: skip


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """``content`` with one to three pieces put in, taken out or doubled."""
    for _ in range(int(generator.integers(1, 3))):
        at = int(generator.integers(0, len(content) + 1))
        length = int(generator.integers(0, 5))
        piece = PIECES[int(generator.integers(len(PIECES)))]
        piece = [piece, b"", content[at : at + length] * 2][int(generator.integers(3))]
        content = content[:at] + piece + content[at + length :]
    return content


def make(kind: str, folder: Path) -> list[Path]:
    """A data set; the files of it that are changed."""
    if kind == "voc":
        objects = voc_object("dog", (3, 4, 30, 20), "<difficult>0</difficult>")
        voc_folder(folder, {"a": objects, "b": objects})
        return [text(folder / "train" / "a.xml", voc_xml(objects * 2, "a.jpg"))]
    if kind == "csv":
        content = 'filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,100,50,"dog",1,2,3,4\n'
        return [csv_folder(folder, content + "b.jpg,,,,,,,\n") / "train.csv"]
    data = "path: .\ntrain: [images, list.txt]\nnames:\n  0: cat\n  1: 'dog'\nnc: 2\n"
    yolo_folder(folder, {"a": "0 .5 .5 .1 .1\n1 .1 .1 .2 .2 .3 .1\n", "b": None}, data)
    text(folder / "list.txt", "./images/b.jpg\nimages/a.jpg\n")
    return [folder / "data.yaml", folder / "list.txt", folder / "labels" / "a.txt"]


@pytest.mark.parametrize("kind", ["voc", "yolo", "csv"])
def test_changed_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    files = make(kind, tmp_path)
    originals = [path.read_bytes() for path in files]
    generator = np.random.default_rng(7)
    outcomes, lines = {"read": 0, "refused": 0}, []
    for number in range(300):
        path, original = files[number % len(files)], originals[number % len(files)]
        path.write_bytes(mutated(original, generator))
        try:
            table, faults = collect_split(locate_split(tmp_path, "train"))
        except EffdetError as error:
            lines.append(one_line(error))
            outcomes["refused"] += 1
        else:
            assert (table is None) == (len(faults) > 0)
            assert "\n" not in str(faults) if len(faults) else table is not None
            if table is not None:
                fit_boxes(table)
                assert np.isfinite(table.boxes).all()
                assert table.image_index.max(initial=-1) < len(table.image_ids)
                assert table.category_index.max(initial=-1) < len(table.category_ids)
                assert all(table.place(row, "bbox") for row in range(len(table.boxes)))
            outcomes["read" if table is not None else "refused"] += 1
        path.write_bytes(original)
    assert min(outcomes.values()) > 10, outcomes
    assert all(str(tmp_path) in line for line in lines)
