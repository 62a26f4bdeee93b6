# SPDX-License-Identifier: Apache-2.0
"""From weights, or from an exported file, to a detector."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet.distributed import pick_device
from effdet.errors import UsageError
from effdet.export import ExportedNetwork, is_exported, open_exported
from effdet.export.running import check_device
from effdet.flags import as_flag
from effdet.inference.predict import Detector, Size
from effdet.postprocess import Postprocessing
from effdet.settings import FOR_PEOPLE, PostprocessConfig
from effdet.structures import ClassMap
from effdet.weights import load_detector, load_model


def load(
    weights: str | Path,
    *,
    device: str | None = None,
    use_ema: bool = True,
    image_size: tuple[int, int] | None = None,
    channels_last: bool = True,
    trust_code: bool = False,
    postprocess: PostprocessConfig = FOR_PEOPLE,
) -> Detector:
    """The detector in a weights file, or in a file of ``effdet export``, ready to predict.

    Args:
        weights: a file such as ``runs/mine/best.pt``, one of another program that this toolkit
            reads, or the name of a public release (see ``effdet download --list``), which is
            fetched unless it was before; or an exported ``.onnx``, ``.xml`` or ``.pt2``.
        device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU if there is one where not given. Exported
            files run on the CPU.
        use_ema: take the averaged weights where the file has them.
        image_size: ``(height, width)`` of the network input where it is not the model's own.
        channels_last: keep the weights channels-last in memory.
        trust_code: run a ``.pt2``, which is code and not only numbers.
        postprocess: how detections are made where nothing else is asked for.

    Raises:
        WeightsError: where the file is missing, damaged or holds no model of this toolkit.
        UsageError: for an unknown name, a ``.pt2`` that is not trusted, or a wish that an exported
            file cannot meet.
        ExportError: where a package that runs the file is missing.
    """
    if is_exported(weights):
        check_exported(weights, device=device, use_ema=use_ema, channels_last=channels_last)
        network = open_exported(weights, trust_code=trust_code, device=device)
        if image_size not in (None, network.info.model_config.image_size):
            raise UsageError(f"{weights}: its image size is fixed; export it with --image-size")
        return ExportedDetector(network, postprocess)
    checkpoint = load_detector(weights, use_ema=use_ema)
    model = load_model(checkpoint, weights, use_ema=use_ema, channels_last=channels_last)
    config = checkpoint.model_config
    if image_size is not None:
        config = dataclasses.replace(config, image_size=image_size)
    return Detector(
        model.to(pick_device(device)),
        config,
        checkpoint.class_map,
        postprocess,
        channels_last=channels_last,
    )


def check_exported(
    weights: str | Path, *, device: str | None, use_ema: bool, channels_last: bool = True
) -> None:
    """Refuse what an exported file cannot follow, without opening it; arguments as :func:`load`.

    Raises:
        UsageError: naming the option.
    """
    for name, value in (("use_ema", use_ema), ("channels_last", channels_last)):
        if not value:
            raise UsageError(
                f"{weights}: {as_flag(name, value)} does nothing to an exported file; leave it out"
            )
    check_device(Path(weights), device)


class ExportedDetector(Detector):
    """A detector that runs an exported file; where that has the post-processing inside, with it."""

    model: ExportedNetwork

    def __init__(
        self, network: ExportedNetwork, postprocess: PostprocessConfig = FOR_PEOPLE
    ) -> None:
        """Take ``network``, which says itself how it is used."""
        info = network.info
        super().__init__(network, info.model_config, info.class_map, postprocess)

    @property
    def inside(self) -> str:
        """The post-processing that the file has inside, as options; empty where it has none."""
        return self.model.info.inside

    @property
    def own_threshold(self) -> float:
        """That of the post-processing in the file."""
        info = self.model.info
        return info.postprocess.score_threshold if info.has_detections else 0.0

    def _settle(self, asked: Mapping[str, Any]) -> PostprocessConfig:
        return self.model.settle(self.postprocess, asked)

    def _process(
        self, size: Size, config: PostprocessConfig, class_map: ClassMap | None
    ) -> Postprocessing:
        if size != self.config.image_size:
            raise UsageError(
                f"{self.model.path}: has one input size, and test-time augmentation needs several; "
                "use it with the weights"
            )
        return self.model.build_postprocess(config, class_map)
