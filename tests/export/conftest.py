# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from effdet.config import model_config
from effdet.export import export, writing
from effdet.inference import Detector, load
from effdet.settings import ExportConfig
from tests.export.lively import save_lively
from tests.export.made import FORMS, SIZE, Made, copied, once
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("files")
    with tiny_model(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "to_program", once(writing.to_program))
        patch.setattr(writing, "program_to_onnx", copied(once(writing.program_to_onnx)))
        config = model_config("tiny", image_size=SIZE, num_classes=3)
        weights = save_lively(config, folder / "best.pt")
        reports = {
            name: export(
                ExportConfig(weights=str(weights), output=str(folder / name), check_count=3, **form)
            )
            for name, form in FORMS.items()
        }
        yield Made(folder, weights, writing.program_to_onnx(None, 18), reports)


@pytest.fixture(scope="module")
def reference(made: Made) -> Detector:
    return load(made.weights, device="cpu")
