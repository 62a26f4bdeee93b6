# SPDX-License-Identifier: Apache-2.0
"""Start a model from other weights, and say what was taken."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from effdet.config import ModelConfig
from effdet.errors import WeightsError
from effdet.models import EfficientDet
from effdet.names import shown_name
from effdet.structures import ClassMap
from effdet.weights.checkpoint import Checkpoint, load_state
from effdet.weights.class_rows import match_classes, take_rows
from effdet.weights.classifier_file import Classifier

PARTS = ("backbone", "bifpn", "box_head", "class_head")
CLASS_LAYER = ("class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias")
"""The tensors with a row for each anchor and class."""

_ANCHORS = ("num_scales", "aspect_ratios", "anchor_scale")
_GRAPH = (
    "backbone", "width", "bifpn_cells", "head_repeats", "min_level", "max_level", *_ANCHORS,
)  # fmt: skip
_FLAGS = {
    "padding": "--padding",
    "backbone_padding": "--backbone-padding",
    "fusion": "--fusion",
    "backbone_eps": "--backbone-bn-eps",
    "mean": "--mean",
    "std": "--std",
}
"""What differs without any tensor that shows it, and the option that sets it."""

SHOWN_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a model has taken from a file.

    Attributes:
        line: says it to people.
        random: names of the tensors that hold random values still, in part or as a whole.
    """

    line: str
    random: frozenset[str] = frozenset()


def transfer_backbone(model: EfficientDet, classifier: Classifier, source: str | Path) -> Taken:
    """Fill the backbone of ``model`` from an ImageNet classifier.

    Raises:
        WeightsError: where the classifier has another backbone, or one that computes otherwise.
    """
    found, wanted = classifier.config, model.config
    if found.backbone != wanted.backbone:
        raise WeightsError(
            f"{source}: weights of {found.backbone}, not of {wanted.backbone}, the backbone of "
            f"{wanted.name}; give other weights or another --model"
        )
    settings = [
        f"{flag} {_plain(value)}"
        for flag, value, have in (
            ("--padding", found.padding, wanted.padding),
            ("--backbone-bn-eps", found.bn_eps, wanted.backbone_eps),
            ("--mean", found.mean, wanted.mean),
            ("--std", found.std, wanted.std),
        )
        if not _alike(value, have)
    ]
    if settings:
        raise WeightsError(f"{source}: trained with {' '.join(settings)}; give that")
    prefix = "backbone."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in classifier.state.items()
        if name.startswith(prefix)
    }
    load_state(model.backbone, state, source)
    random = frozenset(name for name in model.state_dict() if not name.startswith(prefix))
    program = classifier.origin.split(",")[0]
    line = f"{source}: backbone 100 % ({program}); BiFPN and heads are new"
    return Taken(line=line, random=random)


def transfer_weights(
    model: EfficientDet,
    class_map: ClassMap,
    checkpoint: Checkpoint,
    source: str | Path,
    *,
    partial: bool = False,
    other_anchors: bool = False,
) -> Taken:
    """Fill ``model`` from a detector that may know other classes.

    The rows of the last class layer go by class name; those of new classes stay as the model has
    them, at the prior. All else must be there and fit.

    Args:
        model: freshly made; its weights are those that stay where the file has none.
        class_map: the classes of ``model``.
        checkpoint: whose best weights to take.
        source: where it comes from, for people.
        partial: take what fits by name and shape, whatever the file holds.
        other_anchors: the model's anchors are meant to be of other shapes than the file's; there
            must be as many.

    Raises:
        WeightsError: where the file fits less than that.
    """
    config, found = model.config, checkpoint.model_config
    if not partial and other_anchors:
        _check_same_number(found, config, source)
        found = dataclasses.replace(found, **{name: getattr(config, name) for name in _ANCHORS})
    if not partial:
        _check_same_graph(found, config, source)
    given, ours = checkpoint.best_weights(), model.state_dict()
    rows = match_classes(checkpoint.class_map, class_map)
    _check_class_layer(checkpoint, given, source)
    if (found.width, found.anchors_per_location) != (config.width, config.anchors_per_location):
        rows = [None] * len(class_map)
    if not partial:
        _check_any_class(rows, checkpoint.class_map, class_map, source)
    state = {n: t for n, t in given.items() if n not in CLASS_LAYER}
    if partial:
        state = {n: t for n, t in state.items() if n in ours and _shape(t) == _shape(ours[n])}
        if not state:
            raise WeightsError(f"{source}: no tensor of it fits into {config.name}")
    random = {n for n in ours if n not in state and n not in CLASS_LAYER}
    if None in rows:
        random |= set(CLASS_LAYER)
    for name in CLASS_LAYER if any(row is not None for row in rows) else ():
        state[name] = take_rows(given[name], ours[name], rows, config.anchors_per_location)
    kept = ours if partial else {name: ours[name] for name in CLASS_LAYER}
    load_state(model, kept | state, source)
    parts = [_share_line(model, part, random) for part in PARTS]
    parts[-1] += _rows_line(rows, class_map)
    line = f"{source}: {' · '.join(parts)}"
    if partial:
        line += _warning(found, config, random - set(CLASS_LAYER))
    return Taken(line=line, random=frozenset(random))


def _share_line(model: EfficientDet, part: str, random: set[str]) -> str:
    """``bifpn 100 %``: the part of its parameters that was taken, but for the last class layer."""
    sizes = {
        f"{part}.{name}": parameter.numel()
        for name, parameter in model.get_submodule(part).named_parameters()
    }
    sizes = {name: size for name, size in sizes.items() if name not in CLASS_LAYER}
    taken, total = sum(size for n, size in sizes.items() if n not in random), sum(sizes.values())
    title = part.replace("_", " ")
    if part == "class_head" and taken == total:
        return title
    # 100 and 0 are said of nothing less and nothing more than all and nothing.
    percent = 100 if taken == total else max(100 * taken // total, int(taken > 0))
    return f"{title} {percent} %" + (" and" if part == "class_head" else "")


def _rows_line(rows: Sequence[int | None], class_map: ClassMap) -> str:
    """`` 3/7 rows by name (person, car, dog), 4 new``."""
    named = class_map.named
    found = [class_map.name(index) for index in named if rows[index] is not None]
    line = f" {len(found)}/{len(named)} rows by name"
    if found:
        line += f" ({_listed(found)})"
    return line if len(found) == len(named) else f"{line}, {len(named) - len(found)} new"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_CLASSES
    shown = ", ".join(map(shown_name, names[:SHOWN_CLASSES]))
    return shown + (f" and {more} more" if more > 0 else "")


def _warning(found: ModelConfig, wanted: ModelConfig, random: set[str]) -> str:
    """What of a partial transfer people must know."""
    line = "; the rest is random" if random else ""
    settings = " ".join(_settings(found, wanted))
    return f"{line}; trained as {found.name} with {settings}" if settings else line


def _check_class_layer(
    checkpoint: Checkpoint, given: Mapping[str, Tensor], source: str | Path
) -> None:
    """Refuse a class map that contradicts the head."""
    config, classes = checkpoint.model_config, len(checkpoint.class_map)
    rows = config.anchors_per_location * classes
    for name, expected in zip(CLASS_LAYER, ([rows, config.width, 1, 1], [rows]), strict=True):
        if _shape(given.get(name)) != expected:
            raise WeightsError(
                f"{source}: {name} is {_shape(given.get(name)) or 'missing'}, expected {expected}: "
                f"{config.anchors_per_location} anchors and {classes} classes as its class map"
            )


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def _check_any_class(
    rows: Sequence[int | None], have: ClassMap, want: ClassMap, source: str | Path
) -> None:
    """Refuse as many classes as the data has, of which none is called the same.

    They may be the same under other names, and then a head that begins anew is no good start.
    """
    if len(have.named) != len(want.named) or any(row is not None for row in rows):
        return
    theirs, ours = ([m.name(i) for i in m.named] for m in (have, want))
    raise WeightsError(
        f"{source}: has as many classes as the data, but none by name: {_listed(theirs)} and "
        f"{_listed(ours)}; name the data's alike if they are the same, or give --partial-weights "
        "for new ones"
    )


def _check_same_number(found: ModelConfig, wanted: ModelConfig, source: str | Path) -> None:
    """Refuse heads with outputs for another number of anchors than are wanted."""
    have, want = found.anchors_per_location, wanted.anchors_per_location
    if have != want:
        raise WeightsError(
            f"{source}: its heads are for {have} anchors at a place ({len(found.aspect_ratios)} "
            f"aspect ratios x {found.num_scales} sizes), --anchors has {want}; give --anchors with "
            f"{have}, or --partial-weights to begin with new heads"
        )


def _check_same_graph(found: ModelConfig, wanted: ModelConfig, source: str | Path) -> None:
    """Refuse weights whose graph, anchors or input differ; image size and classes may."""
    differing = [n for n in _GRAPH if not _alike(getattr(found, n), getattr(wanted, n))]
    if differing:
        have, want = (
            ", ".join(f"{n} {_plain(getattr(config, n))}" for n in differing)
            for config in (found, wanted)
        )
        advice = "other weights" if found.name == wanted.name else f"--model {found.name}"
        raise WeightsError(
            f"{source}: holds a model {found.name} with {have}, not {wanted.name} with {want}; "
            f"give {advice}, or --partial-weights to take what fits by name and shape"
        )
    settings = _settings(found, wanted)
    if settings:
        raise WeightsError(
            f"{source}: trained with {' '.join(settings)}; give that, other weights, or "
            "--partial-weights to take them nevertheless"
        )


def _settings(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    """The options that would make ``wanted`` compute as ``found``; empty where it does."""
    options = []
    for name, flag in _FLAGS.items():
        value = _setting(found, name)
        if not _alike(value, _setting(wanted, name)):
            options.append(f"{flag} {_plain(value)}")
            if name.endswith("padding"):  # what follows is by default as the padding has it
                wanted = dataclasses.replace(wanted, **{name: value})
    return options


def _setting(config: ModelConfig, name: str) -> Any:
    if name == "backbone_padding":
        return config.backbone_padding or config.padding
    return getattr(config, name)


def _alike(a: Any, b: Any) -> bool:
    """Equal, numbers but for the rounding of another program."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) else bool(a == b)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
