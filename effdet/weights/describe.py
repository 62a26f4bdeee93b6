# SPDX-License-Identifier: Apache-2.0
"""What a weights file is, told without reading its tensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet.config import ModelConfig
from effdet.errors import UsageError, WeightsError
from effdet.structures import ClassMap
from effdet.weights.checkpoint import is_checkpoint
from effdet.weights.classifier_file import config_in, is_classifier_file
from effdet.weights.entries import read_entries
from effdet.weights.formats import open_file
from effdet.weights.open import OURS, find
from effdet.weights.published import is_published, published_values
from effdet.weights.releases import RELEASES
from effdet.weights.source import Config

_TRAINING = ("step", "steps", "epochs", "data")

SHOWN = 8
"""Classes, and plain values beside the tensors, that are listed."""


def describe_weights(path: Path) -> dict[str, Any]:
    """Form, program, model and what else a file says of itself, as plain values.

    A file whose names or shapes this toolkit does not know is described as far as it goes.

    Raises:
        WeightsError: where it is missing, damaged or of no known kind.
        UsageError: for the name of a public release, which is no file.
    """
    if str(path) in RELEASES and not path.exists():
        raise UsageError(
            f"{path}: a public release; `effdet download {path}` fetches it and prints the file"
        )
    file = open_file(path, inert=True)
    about: dict[str, Any] = {"file": str(path), "form": file.form}
    if is_published(path):
        about |= _ours(published_values(file.values, path), path)
    elif is_checkpoint(path):
        about |= _ours(file.values, path)
    elif is_classifier_file(path):
        about |= _our_classifier(file.values, path)
    else:
        about |= _foreign(path)
    numbers = sum(math.prod(stored.shape) for stored in file.tensors.values())
    about |= {"tensors": len(file.tensors), "numbers": numbers}
    if file.averages:
        about["averages"] = len(file.averages)
    if file.inert:
        about["also_holds"] = list(file.inert)
    return about


def format_weights(about: Mapping[str, Any]) -> str:
    """:func:`describe_weights` for people: one line an entry."""
    rows = []
    for key, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{_short(k)} {_short(v)}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(_short, value))
        elif isinstance(value, int):
            value = f"{value:,}"
        rows.append(f"{key.replace('_', ' '):<10} {value}")
    return "\n".join(rows)


def _ours(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        return _told(values, path)
    except WeightsError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: has a missing or wrong entry ({error})") from error


def _told(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    config, class_map = read_entries(values, path)
    about = {"program": OURS, "model": config.name, **_input(config), **_classes(class_map)}
    training = values.get("training") or {}
    about["metrics"] = {k: v for k, v in values["metrics"].items() if k in ("AP", "AP50", "epoch")}
    about["training"] = {k: training[k] for k in _TRAINING if k in training}
    about |= {key: values[key] for key in ("licence", "origin") if values.get(key)}
    return {key: value for key, value in about.items() if value not in ({}, "")}


def _foreign(path: Path) -> dict[str, Any]:
    try:
        found = find(path, inert=True)
    except WeightsError as error:
        return {"program": str(error).removeprefix(f"{path}: ")}
    names = sorted({config.name for config in found.configs})
    about: dict[str, Any] = {"program": found.source.title, "model": " or ".join(names)}
    about |= _input(found.configs[0])
    paddings = sorted({config.padding for config in found.configs})
    about["padding"] = " or ".join(paddings)
    if found.release is not None:
        about |= {"release": found.release.name, "licence": found.release.licence}
    if found.sha256 is not None:
        about["sha256"] = found.sha256
    plain = {k: v for k, v in found.file.values.items() if isinstance(v, bool | int | float | str)}
    if plain:
        about["values"] = dict(list(plain.items())[:SHOWN])
    return about


def _our_classifier(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    config = config_in(values, path)
    about = {"program": OURS, "model": config.name, **_input(config)}
    return about | {key: values[key] for key in ("licence", "origin") if values.get(key)}


def _input(config: Config) -> dict[str, Any]:
    if isinstance(config, ModelConfig):
        height, width = config.image_size
        return {
            "image_size": f"{height} x {width}",
            "outputs": config.num_classes,
            "padding": config.padding,
        }
    return {"outputs": config.num_classes or "none", "padding": config.padding}


def _classes(class_map: ClassMap) -> dict[str, Any]:
    return {"classes": short_list([name for name in class_map.names if name is not None])}


def short_list(names: list[str]) -> list[str]:
    """The first names, and how many there are where that is not all."""
    more = [f"... ({len(names)} in all)"] if len(names) > SHOWN else []
    return names[:SHOWN] + more


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    if not text.isprintable():  # a terminal would obey what a file holds
        text = ascii(text)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."
