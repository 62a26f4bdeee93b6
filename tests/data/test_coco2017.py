# SPDX-License-Identifier: Apache-2.0
"""``effdet download coco2017``, from a server on this machine."""

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effdet import cli, web
from effdet.data import coco2017, find_splits
from effdet.data.coco2017 import COCO2017, NOTE, Archive, download_coco2017
from effdet.errors import DataError, UsageError
from effdet.files import WriteError
from tests.weights.file_server import Server, Site, cut, status

Served = Callable[..., Site]


def zipped(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A zip file."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            if name in links:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content)
    return output.getvalue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serves archives in the place of COCO's; gives their site."""
    servers = []
    monkeypatch.setattr(web, "PAUSES", (0, 0))

    def serve(name: str = "val", content: bytes | None = None, **changes: object) -> Site:
        folder = COCO2017[name].folder
        if content is None:
            content = zipped({f"{folder}/": b"", f"{folder}/1.jpg": b"one", f"{folder}/2": b"2"})
        site = Site(content)
        servers.append(Server(site))
        values: dict[str, object] = {
            "url": f"http://127.0.0.1:{site.port}/{COCO2017[name].name}",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "folder": folder,
            "unpacked": 1000,
            "terms": "none",
        }
        monkeypatch.setitem(COCO2017, name, Archive(**(values | changes)))  # type: ignore[arg-type]
        return site

    yield serve
    for server in servers:
        server.close()


def test_the_real_archives_have_sizes_hashes_and_safe_addresses() -> None:
    assert list(COCO2017) == ["annotations", "val", "train"]
    for archive in COCO2017.values():
        assert archive.url.startswith("https://")
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.size < 2**35
        assert archive.name.endswith("2017.zip")
    assert sum(archive.size for archive in COCO2017.values()) > web.MAX_SIZE


def test_all_parts_come_verified_and_unpacked_and_once(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = json.dumps({"images": [], "annotations": [], "categories": []}).encode()
    names = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")
    sites = [served("annotations", zipped(dict.fromkeys(names, truth)))]
    sites += [served("val"), served("train")]
    folder = download_coco2017(tmp_path / "coco")
    assert (folder / "train2017" / "1.jpg").read_bytes() == b"one"
    assert list(find_splits(folder)) == ["train", "val"]
    left = {path.name for path in folder.iterdir()}
    assert left == {"annotations", "val2017", "train2017", NOTE, ".lock"}
    said = capsys.readouterr().err
    for name in ("annotations_trainval2017.zip", "val2017.zip", "train2017.zip"):
        assert f"{name}: " in said
        assert said.index(f"{name}: ") < said.index("fetching")
    download_coco2017(tmp_path / "coco")
    assert [len(site.requests) for site in sites] == [1, 1, 1]
    assert "val2017 is there already" in capsys.readouterr().err


def test_a_part_alone_is_a_data_set_once_annotations_are_there(
    served: Served, tmp_path: Path
) -> None:
    content = zipped({f"annotations/instances_{name}2017.json": b"{}" for name in ("train", "val")})
    served("annotations", content)
    served("val")
    download_coco2017(tmp_path, ["annotations"])
    with pytest.raises(DataError, match="no image folder"):
        find_splits(tmp_path)
    download_coco2017(tmp_path, ["val"])
    assert list(find_splits(tmp_path)) == ["val"]


def test_what_broke_off_is_gone_on_with(served: Served, tmp_path: Path) -> None:
    site = served("val")
    site.script = [cut(100), *[status(404)] * 2]
    with pytest.raises(DataError, match=r"val2017.zip: .* 404 .*; try again later, or fetch http"):
        download_coco2017(tmp_path, ["val"])
    assert (tmp_path / "val2017.zip.part").stat().st_size == 100
    download_coco2017(tmp_path, ["val"])
    assert site.ranges == [None, *["bytes=100-"] * 3]
    assert (tmp_path / "val2017" / "1.jpg").read_bytes() == b"one"


def test_another_content_is_deleted(served: Served, tmp_path: Path) -> None:
    served("val", sha256="0" * 64)
    with pytest.raises(
        DataError, match=r"not the published file and was deleted: expected sha256 0"
    ):
        download_coco2017(tmp_path, ["val"])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_more_bytes_than_published_are_not_taken(served: Served, tmp_path: Path) -> None:
    served("val", size=50)
    with pytest.raises(DataError, match="has more than"):
        download_coco2017(tmp_path, ["val"])


def test_an_archive_put_there_by_hand_is_verified_and_used(served: Served, tmp_path: Path) -> None:
    site = served("val")
    (tmp_path / "val2017.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"val2017.zip: not the published file; delete it"):
        download_coco2017(tmp_path, ["val"])
    (tmp_path / "val2017.zip").write_bytes(site.content)
    (tmp_path / ".val2017.part" / "val2017").mkdir(parents=True)  # of an unpacking that was stopped
    (tmp_path / ".val2017.part" / "val2017" / "1.jpg").write_bytes(b"half")
    download_coco2017(tmp_path, ["val"])
    assert not site.requests
    assert (tmp_path / "val2017" / "1.jpg").read_bytes() == b"one"
    assert not (tmp_path / ".val2017.part").exists()


def test_a_folder_of_others_is_left_alone(served: Served, tmp_path: Path) -> None:
    served("val")
    (tmp_path / "val2017").mkdir()
    with pytest.raises(UsageError, match=r"val2017 exists and is not from this command; move it"):
        download_coco2017(tmp_path, ["val"])


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = [served("val", unpacked=10**8), served("train", unpacked=10**8)]
    usage = shutil._ntuple_diskusage(10**9, 10**9, 150_000_000)  # type: ignore[attr-defined]
    monkeypatch.setattr(coco2017.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match=r"needs 200 MB on its disk, free are 150 MB; --parts tak"):
        download_coco2017(tmp_path, ["val", "train"])
    assert not any(site.requests for site in sites)
    download_coco2017(tmp_path, ["val"])


@pytest.mark.parametrize(
    ("files", "links", "found"),
    [
        ({"val2017/1": b"1", "../evil": b"x"}, (), "'../evil'"),
        ({"/etc/evil": b"x"}, (), "'/etc/evil'"),
        ({"val2017/../../evil": b"x"}, (), "'val2017/../../evil'"),
        ({"train2017/1": b"x"}, (), "'train2017/1'"),
        ({"val2017/link": b"/etc/passwd"}, ("val2017/link",), "'val2017/link'"),
        ({"val2017/1": bytes(5000)}, (), "at most 0.001 MB in it, found 0.005 MB"),
        ({"val2017/1": b"1", "val2017/1/2": b"2"}, (), "cannot write"),
    ],
)
def test_an_archive_leads_nowhere_else(
    served: Served, tmp_path: Path, files: dict[str, bytes], links: tuple[str, ...], found: str
) -> None:
    served("val", zipped(files, links))
    with pytest.raises((DataError, WriteError)) as caught:
        download_coco2017(tmp_path / "in", ["val"])
    assert found in str(caught.value)
    assert not (tmp_path / "in" / "val2017").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_archive_is_told(served: Served, tmp_path: Path) -> None:
    content = bytearray(zipped({"val2017/1": bytes(range(250))}))
    content[45] ^= 255
    served("val", bytes(content))
    with pytest.raises(DataError, match=r"val2017.zip: cannot be unpacked: "):
        download_coco2017(tmp_path, ["val"])
    served("val", b"no zip at all")
    (tmp_path / "val2017.zip").unlink()
    with pytest.raises(DataError, match=r"cannot be unpacked: .*; delete it and try again"):
        download_coco2017(tmp_path, ["val"])


def test_the_command_fetches_and_says_what_is_next(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served("val")
    monkeypatch.chdir(tmp_path)
    cli.run_command(["download", "coco2017", "--parts", "val"])
    assert capsys.readouterr().out == "next: effdet check coco2017\n"
    served("annotations", zipped({"annotations/instances_val2017.json": b"{}"}))
    words = ["download", "coco2017", "--output", "coco2017", "--parts", "annotations", "val"]
    cli.run_command(words)
    assert list(find_splits("coco2017")) == ["val"]


@pytest.mark.parametrize("words", [["--output", "x"], ["--parts", "val"]])
def test_options_of_the_data_set_do_nothing_for_weights(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--output and --parts are for coco2017"):
        cli.run_command(["download", "efficientdet_d0", *words])
    with pytest.raises(UsageError, match="test"):
        cli.run_command(["download", "coco2017", "--parts", "test"])
