# SPDX-License-Identifier: Apache-2.0
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effdet import web
from effdet.config import ModelConfig, model_config
from effdet.models import build_model
from effdet.structures import ClassMap
from effdet.weights import Checkpoint
from tests.weights.fetching import CONTENT
from tests.weights.file_server import Server, Site

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CLASS_MAP = ClassMap(("cat", None, "dog"), (1, None, 3))


@functools.cache
def weights(config: ModelConfig) -> dict[str, Tensor]:
    """Fresh weights, made once."""
    torch.manual_seed(0)
    return build_model(config).state_dict()


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """A Lite0 for 64 x 96 pixels and three classes, its average one tenth above the weights."""

    def _make(class_map: ClassMap = CLASS_MAP, **changes: object) -> Checkpoint:
        values: dict[str, object] = {"image_size": (64, 96), "num_classes": len(class_map)}
        config = model_config("efficientdet_lite0", **(values | changes))
        state = weights(config)
        average = {n: t + 0.1 if t.is_floating_point() else t for n, t in state.items()}
        return Checkpoint(
            model_config=config,
            class_map=class_map,
            model=state,
            ema=average,
            metrics={"AP": 0.25, "APs": None, "epoch": 3},
            training={"step": 12, "optimizer": {"state": {0: torch.ones(2)}}, "size": (1, 2)},
        )

    return _make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights of an empty cache; waiting between tries takes no time."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "PAUSES", (0.0,) * 4)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Site(CONTENT))
    yield server
    server.close()


@pytest.fixture
def site(server: Server) -> Site:
    return server.site
