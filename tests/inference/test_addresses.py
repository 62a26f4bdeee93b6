# SPDX-License-Identifier: Apache-2.0
"""Images at addresses, from a server on this machine."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from effdet.errors import DataError
from effdet.inference import Detector, addresses, predict_to_folder
from effdet.inference.sources import expand_sources, read_image
from tests.weights.file_server import Answer, Server, Site, cut, redirect, silence, status

from .conftest import picture

RED = (40, 30, 120, 90)


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    servers: list[Server] = []

    def start(content: bytes, *script: Answer) -> Site:
        servers.append(Server(Site(content, script=list(script))))
        return servers[-1].site

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def photo() -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(("red", RED), size=(200, 140)).transpose(Image.Transpose.ROTATE_90)
    turned.save(file, "PNG", exif=exif)
    return file.getvalue()


def test_an_image_at_an_address_is_that_image(
    detector: Detector,
    serve: Callable[..., Site],
    photo: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.png").write_bytes(photo)
    address = serve(photo).url + "?key=secret"
    assert torch.equal(read_image(address), read_image(tmp_path / "a.png"))
    shown = capsys.readouterr().err
    assert address.split("?")[0] in shown
    assert "secret" not in shown
    assert len(detector.predict(address)) == 1


def test_it_is_written_about_as_a_file_is(
    detector: Detector, serve: Callable[..., Site], photo: bytes, tmp_path: Path
) -> None:
    site = serve(photo)
    sources = expand_sources([site.url])
    report = predict_to_folder(detector, sources, tmp_path / "out")
    assert report.num_detections == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "weights.png", "predictions.json",
    }  # fmt: skip
    assert f'"file": "{site.url}"' in report.predictions.read_text()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(404), "answers 404"),
        (cut(30), "it broke off after|the connection to .* broke off"),
        (redirect("http://192.0.2.1/a.png"), "which is not an https address"),
        (redirect("file:///etc/hostname"), "which is not an https address"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    serve: Callable[..., Site], photo: bytes, answer: Answer, reason: str
) -> None:
    site = serve(photo, answer)
    with pytest.raises(DataError, match=f"{site.url}: cannot be fetched: .*({reason})") as caught:
        read_image(site.url)
    assert "\n" not in str(caught.value)


def test_what_is_no_image_is_named(serve: Callable[..., Site]) -> None:
    site = serve(b"<html>sign in</html>")
    with pytest.raises(DataError, match=f"{site.url}: not an image .*found HTML"):
        read_image(site.url)


def test_too_much_and_too_slow_are_given_up(
    serve: Callable[..., Site], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MAX_BYTES", len(photo) - 1)
    with pytest.raises(DataError, match="the file has more than"):
        read_image(serve(photo).url)
    monkeypatch.undo()
    monkeypatch.setattr(addresses, "LONGEST", 0.0)
    with pytest.raises(DataError, match="it takes longer than 0 s"):
        read_image(serve(photo).url)


def test_nobody_is_waited_for_long(
    serve: Callable[..., Site], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PATIENCE", 0.2)
    with pytest.raises(DataError, match="cannot reach 127"):
        read_image(serve(photo, silence).url)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://192.0.2.1/a.png", "is not an https address"),
        ("ftp://192.0.2.1/a.png", "is not an https address"),
        ("https://me:secret@192.0.2.1/a.png", "a user or a password is not fetched"),
        ("http://127.0.0.1:1/a.png", "cannot reach 127"),
    ],
)
def test_other_addresses_are_refused(address: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_image(address)
    assert "secret" not in str(caught.value)


def test_one_that_cannot_be_had_does_not_stop_the_others(
    detector: Detector, serve: Callable[..., Site], photo: bytes, tmp_path: Path
) -> None:
    bad, good = serve(photo, status(404)), serve(photo)
    report = predict_to_folder(detector, expand_sources([bad.url, good.url]), tmp_path / "out")
    assert (report.num_images, list(report.failed)) == (1, [bad.url])
    with pytest.raises(DataError, match="1 of 2 images could not be read"):
        report.check()
