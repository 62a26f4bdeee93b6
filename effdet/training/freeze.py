# SPDX-License-Identifier: Apache-2.0
"""Which parameters learn in which epochs, and which at a rate of their own.

A parameter that does not learn has ``requires_grad`` off, which is all that the rest goes by: it
gets no gradient, so no decay, no optimizer state and no message between processes, and a module of
such parameters alone is in evaluation mode, so that a batch norm keeps its statistics.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.errors import UsageError, nearest


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """What is frozen when.

    Attributes:
        throughout: names of the parameters that never learn.
        at_first: names of those that do not learn in the first epochs.
        first_epochs: how many these are.
    """

    throughout: frozenset[str] = frozenset()
    at_first: frozenset[str] = frozenset()
    first_epochs: int = 0

    def in_epoch(self, epoch: int) -> frozenset[str]:
        """Names of the parameters that do not learn in ``epoch``, counted from 1."""
        return self.at_first if epoch <= self.first_epochs else self.throughout


def plan_freezing(
    model: nn.Module,
    patterns: Sequence[str],
    *,
    first_epochs: int = 0,
    first_patterns: Sequence[str] = (),
    random: Collection[str] = (),
) -> Freezing:
    """What the options freeze in ``model``.

    Args:
        model: the model.
        patterns: what never learns; see :func:`parameters_of`.
        first_epochs: epochs in which ``first_patterns`` do not learn either.
        first_patterns: the same kind of names.
        random: names of the tensors that hold random values.

    Raises:
        UsageError: for a name that nothing has, where nothing would learn, where random values
            would be kept, or where the first epochs are like the others.
    """
    every = {name for name, _ in model.named_parameters()}
    throughout = _union(parameters_of(model, patterns, "--freeze"))
    at_first = throughout | _union(parameters_of(model, first_patterns, "--freeze-epochs"))
    for option, names in (("--freeze", throughout), ("--freeze-epochs", at_first)):
        if names == every:
            raise UsageError(f"{option} leaves nothing to learn; freeze less")
        if kept := sorted(names.intersection(random)):
            raise UsageError(
                f"{option} would keep {kept[0]} as it is, which holds random values: the weights "
                "that the run begins with do not have it all; freeze less"
            )
    if first_epochs and at_first == throughout:
        raise UsageError(
            f"--freeze-epochs does nothing: --freeze holds {' and '.join(first_patterns)} anyway"
        )
    return Freezing(throughout=throughout, at_first=at_first, first_epochs=first_epochs)


def rate_factors(model: nn.Module, factors: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The factor on the learning rate of each parameter that has one; later patterns win.

    Args:
        model: the model, what never learns being frozen.
        factors: patterns, see :func:`parameters_of`, each with its number.

    Raises:
        UsageError: for a pattern that nothing has, or that changes no rate.
    """
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, tuple[str, float]] = {}
    matched = parameters_of(model, [pattern for pattern, _ in factors], "--lr-factors")
    for (pattern, factor), names in zip(factors, matched, strict=True):
        found |= dict.fromkeys(names & learning, (pattern, factor))
    for pattern, factor in factors:
        if (pattern, factor) not in found.values():
            raise UsageError(
                f"--lr-factors {pattern}={factor:g} does nothing: all of it is frozen or has a "
                "factor that comes later"
            )
    return {name: factor for name, (_, factor) in found.items()}


def parameters_of(model: nn.Module, patterns: Iterable[str], option: str) -> list[frozenset[str]]:
    """The names of the parameters that each pattern means.

    A pattern is the name of a parameter, or of a module for all parameters in it, in which ``*``
    stands for any characters, ``?`` for one and ``[0-4]`` for one of these.

    Raises:
        UsageError: for a pattern that means nothing; names ``option`` and the nearest names.
    """
    found = []
    for pattern in patterns:
        names = frozenset(n for n, _ in model.named_parameters() if _means(pattern, n))
        if not names:
            known = [name for name, _ in model.named_modules() if name]
            known += [name for name, _ in model.named_parameters()]
            raise UsageError(
                f"{option}: nothing in the model is called {pattern}{nearest(pattern, known)}"
            )
        found.append(names)
    return found


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Let all parameters of ``model`` learn but those of ``names``; no gradients are left."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
        parameter.grad = None


def is_frozen_as(model: nn.Module, names: Collection[str]) -> bool:
    """Whether exactly the parameters of ``names`` do not learn."""
    return all(p.requires_grad == (name not in names) for name, p in model.named_parameters())


def set_train_mode(model: nn.Module, *, freeze_bn: bool = False) -> None:
    """Training mode, but for modules that do not learn and, with ``freeze_bn``, batch norms."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
        if frozen or (freeze_bn and isinstance(module, _BatchNorm)):
            module.eval()


def _means(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)
