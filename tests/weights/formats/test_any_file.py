# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from effdet.weights.formats import open_file


@pytest.mark.parametrize("length", [0x80, 0x180, 0x4B50])
def test_a_header_whose_length_begins_like_a_pickle_or_zip_is_none(
    length: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, {"note": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"x": torch.ones(2)}, path, {"note": "n" * (length - short)})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert open_file(path).tensors["x"].read().tolist() == [1, 1]
