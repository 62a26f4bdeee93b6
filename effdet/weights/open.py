# SPDX-License-Identifier: Apache-2.0
"""From the name or the path of any weights to a detector or a backbone of ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.config import ModelConfig, Padding
from effdet.errors import UsageError, WeightsError, shown
from effdet.structures import ClassMap
from effdet.weights.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from effdet.weights.classifier_file import Classifier, is_classifier_file, read_classifier
from effdet.weights.coco import class_map_of, numbered
from effdet.weights.digest import sha256_of
from effdet.weights.download import resolve
from effdet.weights.entries import FLOATS
from effdet.weights.formats import open_file
from effdet.weights.published import is_published, load_published
from effdet.weights.releases import Release, release_with_hash
from effdet.weights.source import Config, Source
from effdet.weights.sources import SOURCES
from effdet.weights.tensor_file import TensorFile
from effdet.weights.translate import COUNTER, identify, nearest_model, our_shapes, state_dict

OURS = "effdet-toolkit"
_COUNTS = {torch.int64, torch.int32}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a weights file of another program is, before its tensors are read.

    Attributes:
        file: as it was opened.
        source: the program whose names it has.
        configs: the models it may hold: several where all their tensors are alike.
        sha256: of the file; None for files of several parts.
        release: the public release that has these bytes, if any.
    """

    file: TensorFile
    source: Source[Any]
    configs: tuple[Config, ...]
    sha256: str | None
    release: Release | None


def find(path: Path, *, inert: bool = False) -> Found:
    """What the file at ``path`` is; nothing but names and shapes is read.

    Raises:
        WeightsError: where it cannot be opened, is of no known program, or holds no model that
            this toolkit has; the nearest one is named.
    """
    file = open_file(path, inert=inert)
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    source = next((s for s in SOURCES if s.recognises(shapes)), None)
    if source is None:
        names = ", ".join(name[:100] for name in sorted(shapes)[:3])
        raise WeightsError(
            f"{path}: {file.form} with {len(shapes)} tensors ({names}, ...) that have the names of "
            "no program this toolkit knows"
        )
    try:
        configs = identify(source, shapes)
        fault = "" if configs else _no_model(source, shapes)
    except (UsageError, RuntimeError, OverflowError) as error:  # sizes that no model can have
        raise WeightsError(f"{path}: of no model ({shown(str(error), 200)})") from error
    if fault:
        raise WeightsError(f"{path}: {fault}")
    sha256 = sha256_of(path) if path.is_file() else None
    release = None if sha256 is None else release_with_hash(sha256)
    return Found(file=file, source=source, configs=tuple(configs), sha256=sha256, release=release)


def load_detector(
    weights: str | Path,
    *,
    model: str | None = None,
    padding: Padding | None = None,
    classes: Sequence[str] | None = None,
    use_ema: bool = True,
    inert: bool = False,
) -> Checkpoint:
    """The detector in a file of any known kind, or with the name of a public release.

    Args:
        weights: a path or a name.
        model: which of several models whose tensors are alike (D6 and D7).
        padding: likewise.
        classes: names of the class outputs, where the file does not say them; COCO's are known.
        use_ema: take the averages of another program's file where it has them.
        inert: read ``argparse.Namespace`` and NumPy numbers as lifeless stand-ins.

    Raises:
        WeightsError: naming the file, the tensor and what was expected.
        UsageError: for an unknown name, or where ``model`` or ``padding`` is needed.
    """
    path = resolve(weights)
    if is_published(path):
        return load_published(path)
    if is_checkpoint(path):
        return load_checkpoint(path)
    if is_classifier_file(path):
        raise WeightsError(
            f"{path}: an ImageNet classifier, not a detector; it goes to train.py "
            "--backbone-weights"
        )
    found = find(path, inert=inert)
    if not isinstance(found.configs[0], ModelConfig):
        raise WeightsError(
            f"{path}: an ImageNet classifier ({found.configs[0].backbone}), not a detector; it "
            "goes to train.py --backbone-weights"
        )
    config = _the_one(found, path, model, padding)
    assert isinstance(config, ModelConfig)
    return Checkpoint(
        model_config=config,
        class_map=_class_map(config.num_classes, classes, path),
        model=_read(found, config, path, use_ema),
        ema=None,
        chosen="raw",
        metrics={},
        training={},
        licence=found.release.licence if found.release else "",
        origin=_origin(found),
    )


def load_classifier(
    weights: str | Path,
    *,
    padding: Padding | None = None,
    use_ema: bool = True,
    inert: bool = False,
) -> Classifier:
    """The ImageNet classifier in a file of any known kind, or with the name of a public release.

    Args:
        weights: a path or a name.
        padding: which of two models whose tensors are alike (timm's with and without ``tf_``).
        use_ema: as in :func:`load_detector`.
        inert: as in :func:`load_detector`.

    Raises:
        WeightsError, UsageError: as :func:`load_detector`.
    """
    path = resolve(weights)
    if is_classifier_file(path):
        return read_classifier(path)
    if is_published(path) or is_checkpoint(path):
        raise WeightsError(f"{path}: a detector of this toolkit; it goes to --weights")
    found = find(path, inert=inert)
    if isinstance(found.configs[0], ModelConfig):
        raise WeightsError(f"{path}: a detector ({found.configs[0].name}); it goes to --weights")
    config = _the_one(found, path, None, padding)
    assert not isinstance(config, ModelConfig)
    return Classifier(
        config=config,
        state=_read(found, config, path, use_ema),
        origin=_origin(found),
        licence=found.release.licence if found.release else "",
    )


def holds_classifier(weights: str | Path) -> bool:
    """Whether the weights are those of an ImageNet classifier.

    Raises:
        WeightsError, UsageError: as :func:`load_detector`.
    """
    path = resolve(weights)
    if is_published(path) or is_checkpoint(path):
        return False
    return is_classifier_file(path) or not isinstance(
        find(path, inert=True).configs[0], ModelConfig
    )


def _the_one(found: Found, path: Path, model: str | None, padding: Padding | None) -> Config:
    """The model that is meant: a public release says it itself, ``model`` and ``padding`` choose.

    They only choose between several; that the file has another model shows later.
    """
    fitting = list(found.configs)
    release = found.release
    if release is not None:
        fitting = [
            dataclasses.replace(config, mean=release.mean, std=release.std)
            for config in fitting
            if config.name == release.model and config.padding == release.padding
        ]
    fitting = [c for c in fitting if c.name == model] or fitting
    fitting = [c for c in fitting if c.padding == padding] or fitting
    for flag, values in (
        ("model", sorted({config.name for config in fitting})),
        ("padding", sorted({config.padding for config in fitting})),
    ):
        if len(values) > 1:
            raise UsageError(
                f"{path}: its tensors fit {flag} {' and '.join(values)} alike; give --{flag} to "
                "train.py, or to `effdet convert` for other programs"
            )
    return fitting[0]


def _no_model(source: Source[Any], shapes: Mapping[str, tuple[int, ...]]) -> str:
    nearest = nearest_model(source, shapes)
    start = f"weights of {source.title}, but of no model that this toolkit has"
    if nearest is None:
        return start
    config, faults = nearest
    more = f" and {len(faults) - 2} more" if len(faults) > 2 else ""
    return f"{start}; nearest {config.name}: {'; '.join(faults[:2])}{more}"


def _read(found: Found, config: Config, path: Path, use_ema: bool = True) -> dict[str, Tensor]:
    stored = found.file.best(use_ema)
    for name in our_shapes(config):
        theirs = [n for n in found.source.names(config, name) if n in stored]
        _check_kinds({n: stored[n].dtype for n in theirs}, name.endswith(COUNTER), path)
    state = state_dict(found.source, config, stored)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            theirs = found.source.names(config, name)
            raise WeightsError(f"{path}: {', '.join(theirs)} is not a tensor of finite numbers")
    return {n: t.float() if t.is_floating_point() else t for n, t in state.items()}


def _check_kinds(dtypes: Mapping[str, torch.dtype], counts: bool, path: Path) -> None:
    """Refuse types that no weights have; ``counts`` is for step counters."""
    for name, dtype in dtypes.items():
        if dtype in FLOATS or (counts and dtype in _COUNTS):
            continue
        raise WeightsError(
            f"{path}: {name} is {dtype}, expected floating-point numbers; quantized and complex "
            "weights are not read"
        )


def _class_map(outputs: int, classes: Sequence[str] | None, path: Path) -> ClassMap:
    if classes is None:
        return class_map_of(outputs)
    if len(classes) != outputs:
        raise WeightsError(f"{path}: {outputs} class outputs, but {len(classes)} names were given")
    return numbered(list(classes))


def _origin(found: Found) -> str:
    text = f"{found.source.title}, {found.file.path.name}"
    return text if found.sha256 is None else f"{text}, sha256 {found.sha256}"
