# SPDX-License-Identifier: Apache-2.0
"""ImageNet classifiers, or their backbones, as safetensors files of this toolkit."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from effdet.config import ClassifierConfig
from effdet.errors import WeightsError, shown
from effdet.weights.entries import check_state
from effdet.weights.formats.safetensors_file import metadata_of, open_safetensors
from effdet.weights.published import check_published_digest, write_with_digest
from effdet.weights.translate import our_shapes

FORMAT = "effdet-classifier"
VERSION = "1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """An ImageNet classifier, or the backbone of one.

    Attributes:
        config: its graph and input.
        state: all tensors of :class:`effdet.models.EfficientNetClassifier`.
        origin: program and file, for people.
        licence: of the weights, empty where not known.
    """

    config: ClassifierConfig
    state: Mapping[str, Tensor]
    origin: str
    licence: str = ""


def save_classifier(classifier: Classifier, path: str | Path) -> None:
    """Write ``classifier``; ``path`` always holds a whole file.

    Raises:
        DivergedError: where a tensor is not finite; nothing is written.
        WriteError: with the system's reason.
    """
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "classifier_config": json.dumps(dataclasses.asdict(classifier.config)),
        "origin": classifier.origin,
        "licence": classifier.licence,
    }
    write_with_digest(classifier.state, metadata, path)


def is_classifier_file(path: Path) -> bool:
    """Whether the file is one of :func:`save_classifier`, damaged or not."""
    try:
        return metadata_of(path).get("format") == FORMAT
    except WeightsError:
        return False


def read_classifier(path: Path) -> Classifier:
    """Read a file of :func:`save_classifier`; any byte that was changed since is found.

    Raises:
        WeightsError: where it is damaged or from a later version.
    """
    metadata = metadata_of(path)
    if metadata.get("version") != VERSION:
        raise WeightsError(
            f"{path}: a classifier of version {shown(metadata.get('version'))}, this toolkit reads "
            f"version {VERSION}; upgrade effdet-toolkit"
        )
    check_published_digest(path)
    config, tensors = config_in(metadata, path), open_safetensors(path).tensors
    check_state(tensors, our_shapes(config), path)
    return Classifier(
        config=config,
        state={name: stored.read() for name, stored in tensors.items()},
        origin=metadata.get("origin", ""),
        licence=metadata.get("licence", ""),
    )


def config_in(metadata: Mapping[str, str], path: Path) -> ClassifierConfig:
    """The graph and input that the metadata of a file tell.

    Raises:
        WeightsError: where they do not.
    """
    try:
        values: dict[str, Any] = json.loads(metadata["classifier_config"])
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return ClassifierConfig(**fields)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: metadata classifier_config are damaged ({str(error)[:200]})"
        ) from error
