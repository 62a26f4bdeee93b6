# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
from pathlib import Path

import pytest
import torch

from effdet.errors import WeightsError
from effdet.weights.digest import check_digest, save_with_digest, sha256_of

VALUES = {"weight": torch.arange(100.0), "name": "a"}


def content_of(values: object) -> bytes:
    file = io.BytesIO()
    save_with_digest(values, file)
    return file.getvalue()


def test_the_digest_is_that_of_all_bytes_before_it(tmp_path: Path) -> None:
    content = content_of(VALUES)
    assert content[-78:-64] == b"effdet sha256:"
    assert content[-64:].decode() == hashlib.sha256(content[:-78]).hexdigest()
    (tmp_path / "a.pt").write_bytes(content)
    assert check_digest(tmp_path / "a.pt")


def test_the_rest_is_what_torch_writes() -> None:
    plain = io.BytesIO()
    torch.save(VALUES, plain)
    ours = content_of(VALUES)
    assert ours[:-80] == plain.getvalue()[:-2]  # the last two bytes are the comment's length
    loaded = torch.load(io.BytesIO(ours), weights_only=True)
    assert torch.equal(loaded["weight"], VALUES["weight"])


@pytest.mark.parametrize("content", [b"", b"PK", b"effdet sha256:", bytes(200)])
def test_a_file_without_digest_is_told_from_one_with_a_wrong_one(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert not check_digest(path)
    path.write_bytes(content + b"effdet sha256:" + b"0" * 64)
    with pytest.raises(WeightsError, match="expected sha256 0000000000000000"):
        check_digest(path)


class FullFile(io.BytesIO):
    """Takes ``room`` bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: object) -> int:
        self.room -= len(data)  # type: ignore[arg-type]
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_failed_write_comes_out_as_it_was_and_not_as_an_error_of_torch() -> None:
    size = len(content_of(VALUES))
    for room in range(0, size, 50):
        with pytest.raises(OSError, match="No space left") as caught:
            save_with_digest(VALUES, FullFile(room))
        assert caught.value.errno == 28
    save_with_digest(VALUES, FullFile(size))


def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(WeightsError, match="b: no such weights file"):
        sha256_of(tmp_path / "b")
