# SPDX-License-Identifier: Apache-2.0
"""Real models of the table, which take minutes."""

from pathlib import Path

import pytest
import torch

from effdet.config import model_config
from effdet.errors import ExportError
from effdet.export import export, open_exported, programs
from effdet.export.network import DeployedNetwork
from effdet.inference import load
from effdet.settings import ExportConfig
from tests.export.lively import pictures, save_lively

NAMES = ["d0", "d3", "d6", "d7x", "lite0", "lite4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_table_gives_the_same_from_onnx(name: str, tmp_path: Path) -> None:
    # Sides that no level divides evenly: the padding is another on each.
    config = model_config(f"efficientdet_{name}", image_size=(136, 200), num_classes=3)
    weights = save_lively(config, tmp_path / "best.pt")
    written = export(
        ExportConfig(weights=str(weights), check_count=2, box_tolerance=1.0, score_tolerance=0.01)
    )
    images = pictures(config, 2)
    with torch.no_grad():
        expected = DeployedNetwork(load(weights, device="cpu").model, config)(images)
    found = open_exported(written.files[0]).outputs(images)
    for a, b in zip(expected, found, strict=True):
        assert float((a - b).abs().max() / a.abs().max()) < 1e-4


@pytest.mark.slow
def test_a_compiled_package_gives_the_same_and_says_what_it_is(tmp_path: Path) -> None:
    config = model_config("efficientdet_lite0", image_size=(64, 64), num_classes=3)
    weights = save_lively(config, tmp_path / "best.pt")
    written = export(ExportConfig(weights=str(weights), format="aoti", check_count=2))
    assert programs.read_program_info(written.files[0])[0] == "aoti"
    assert written.check.detections.detections > 10
    assert (
        len(open_exported(written.files[0], trust_code=True).outputs(pictures(config, 3))[0]) == 3
    )


def test_without_a_compiler_a_package_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match="needs a C\\+\\+ compiler"):
        export(ExportConfig(weights="none.pt", format="aoti", output=str(tmp_path / "a.pt2")))
