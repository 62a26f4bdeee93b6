# SPDX-License-Identifier: Apache-2.0
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from effdet.structures import ClassMap
from effdet.weights import Checkpoint
from effdet.weights.describe import describe_weights, format_weights
from effdet.weights.published import save_published


def test_a_terminal_never_sees_what_a_file_wants_it_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    evil = "\x1b[2J\x07\u202eevil\nline"
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}, "arch": evil, evil: 1}, path)
    about = describe_weights(path)
    about |= {"values": {"arch": evil, evil: evil}}
    for line in format_weights(about).splitlines():
        assert line.isprintable()
    assert r"\x1b[2J" in format_weights(about)


def test_a_published_file_tells_its_training_and_licence(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    class_map = ClassMap(("cat", "\x1b[2J"), (1, 2))
    checkpoint = dataclasses.replace(
        make_checkpoint(class_map), summary={"epochs": 30, "data": "bccd"}
    )
    path = tmp_path / "a.safetensors"
    save_published(checkpoint, path, licence="CC BY 4.0", origin="somebody")
    about = describe_weights(path)
    assert about["training"] == {"epochs": 30, "data": "bccd"}
    assert (about["licence"], about["origin"]) == ("CC BY 4.0", "somebody")
    assert about["model"] == "efficientdet_lite0"
    assert all(line.isprintable() for line in format_weights(about).splitlines())
