# SPDX-License-Identifier: Apache-2.0
"""What is known of another program's weights: names and layouts, nothing else.

Our names are those of :class:`effdet.models.EfficientDet` and
:class:`effdet.models.EfficientNetClassifier`, including ``num_batches_tracked``.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from torch import Tensor

from effdet.config import ClassifierConfig, ModelConfig

Config = ModelConfig | ClassifierConfig
Shapes = Mapping[str, tuple[int, ...]]
C = TypeVar("C", bound=Config, contravariant=True)


class Source(Protocol[C]):
    """One program whose files are read; ``C`` is :class:`ModelConfig` for detectors.

    Attributes:
        title: the program, as people know it.
    """

    title: str

    def recognises(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors is one of this program's, whichever model it holds."""
        ...

    def other_model(self, shapes: Shapes) -> str | None:
        """In words what sets a model of this program apart from all that this toolkit has.

        None where nothing does, as far as that can be told by a look at names and shapes.
        """
        ...

    def configs(self, shapes: Shapes) -> Iterable[Config]:
        """The models that a file with these tensors may hold, all that have to be tried.

        The number of classes, the padding, epsilon and normalisation of the images are set; that
        all shapes fit is for others to check.
        """
        ...

    def names(self, config: C, name: str) -> list[str]:
        """The file's names of the tensors that make up our tensor ``name``.

        Mostly one; several where ours is made of them; none where the program has nothing alike,
        which is allowed for ``num_batches_tracked`` alone.
        """
        ...

    def to_ours(self, config: C, name: str, values: list[Tensor]) -> Tensor:
        """Our tensor ``name`` from those of :meth:`names`."""
        ...

    def from_ours(self, config: C, name: str, value: Tensor) -> list[Tensor]:
        """The inverse of :meth:`to_ours`."""
        ...

    def is_extra(self, config: C, name: str) -> bool:
        """Whether a tensor of the file that is in no :meth:`names` may be left out silently.

        Step counters, optimizer state, anchors: what is no weight of the network.
        """
        ...
