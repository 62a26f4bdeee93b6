# SPDX-License-Identifier: Apache-2.0
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet.config import MODELS
from effdet.errors import WeightsError
from effdet.weights import translate
from effdet.weights.formats.keras import open_keras
from effdet.weights.sources.automl import DETECTOR
from tests import golden

KERNEL = torch.arange(6.0).reshape(2, 3)


def test_without_h5py_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"a.h5: .*pip install h5py \(the extra .*\[keras\]\)"):
        open_keras(tmp_path / "a.h5")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pytest.importorskip("h5py", reason="h5py is not installed")
    return tmp_path / "a.h5"


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """As Keras does: one group a layer, in it the variables, with attributes that name them."""
    import h5py

    with h5py.File(path, "w") as file:
        names = list(dict.fromkeys(name.split("/")[0] for name in tensors))
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, tensor in tensors.items():
            group = file.require_group(name.split("/")[0])
            group.create_dataset(f"{name}:0", data=tensor.numpy())
        file.require_group("resample_p7")  # a layer without weights


def refused(path: Path, change: Callable[[Any], object], words: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["class_net/class-0/bias:0"] = np.zeros(3, np.float32)
        change(file)
    with pytest.raises(WeightsError, match=words) as caught:
        open_keras(path)
    assert str(path) in str(caught.value)


def test_a_detector_of_the_reference_comes_out_as_it_went_in(path: Path) -> None:
    values = golden.variables("efficientdet-lite0")
    write(path, values)
    file = open_keras(path)
    assert file.form == "Keras HDF5"
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    assert shapes == golden.shapes("efficientdet-lite0")
    assert translate.identify(DETECTOR, shapes) == [MODELS["efficientdet_lite0"]]
    for name, stored in file.tensors.items():
        assert stored.dtype == torch.float32
        assert torch.equal(stored.read(), values[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.uint8])
def test_numbers_of_other_types_and_shapes_are_read(path: Path, dtype: torch.dtype) -> None:
    write(path, {"a/b": KERNEL.to(dtype), "a/one": torch.ones((), dtype=dtype), "a/no": KERNEL[:0]})
    found = {name: stored.read() for name, stored in open_keras(path).tensors.items()}
    assert torch.equal(found["a/b"], KERNEL.to(dtype))
    assert found["a/one"].shape == ()
    assert found["a/no"].shape == (0, 3)


@pytest.mark.parametrize(
    "link",
    [
        lambda h5py: h5py.SoftLink("/class_net/class-0/bias:0"),
        lambda h5py: h5py.ExternalLink("other.h5", "/a"),
        lambda h5py: h5py.ExternalLink("/etc/passwd", "/"),
    ],
)
def test_links_are_not_followed(path: Path, link: Callable[[Any], object]) -> None:
    import h5py

    def change(file: Any) -> None:
        file["class_net/else"] = link(h5py)

    refused(path, change, "class_net/else is a link to elsewhere, which is not followed")


def test_groups_that_hold_themselves_are_refused(path: Path) -> None:
    def change(file: Any) -> None:
        file["class_net/again"] = file["class_net"]

    refused(path, change, "groups within groups")


def test_only_plain_numbers_are_read(path: Path) -> None:
    def text(file: Any) -> None:
        file["class_net/x:0"] = "text"

    def big_endian(file: Any) -> None:
        file["class_net/x:0"] = np.zeros(3, ">f4")

    def record(file: Any) -> None:
        file["class_net/x:0"] = np.zeros(3, [("a", "f4")])

    def kind(file: Any) -> None:
        file["class_net/x:0"] = np.dtype("f4")

    for change in (text, big_endian, record):
        refused(path, change, "class_net/x:0 has the type .*, expected numbers")
    refused(path, kind, "class_net/x:0 is neither a group nor a dataset")


def test_what_is_not_byte_by_byte_in_the_file_is_refused(path: Path) -> None:
    """A few bytes could stand for any number of zeros, or for another file."""

    def compressed(file: Any) -> None:
        file.create_dataset("a/x:0", data=np.zeros(1000, "f4"), compression="gzip")

    def not_written(file: Any) -> None:
        file.create_dataset("a/x:0", shape=(2**50,), dtype="f4")

    def external(file: Any) -> None:
        outside = [(str(path.with_name("other")), 0, 12)]
        file.create_dataset("a/x:0", shape=(3,), dtype="f4", external=outside)

    def virtual(file: Any) -> None:
        import h5py

        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "a", (3,))
        file.create_virtual_dataset("a/x:0", layout)

    for change in (compressed, not_written, external, virtual):
        refused(path, change, "a/x:0 is not stored as .* plain bytes; save the weights again")


def test_a_dataset_without_a_layer_or_twice_is_refused(path: Path) -> None:
    def no_layer(file: Any) -> None:
        file["x:0"] = np.zeros(3, "f4")

    def twice(file: Any) -> None:
        file["other/class-0/bias"] = np.zeros(3, "f4")

    for change in (no_layer, twice):
        refused(path, change, "expected datasets named layer/variable:0, each once")


def test_damage_is_refused(path: Path) -> None:
    write(path, {"a/kernel": KERNEL})
    data = path.read_bytes()
    for size in (0, 7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=r"a\.h5: damaged or not an HDF5 file"):
            open_keras(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        open_keras(path.with_name("b.h5"))
    path.write_bytes(data)
    stored = open_keras(path).tensors["a/kernel"]
    path.write_bytes(data[:200])
    with pytest.raises(WeightsError, match=r"a\.h5: cut off before the end of a/a/kernel:0"):
        stored.read()
