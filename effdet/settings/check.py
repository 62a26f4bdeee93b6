# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet check``."""

from dataclasses import dataclass
from typing import Any

from effdet.config import ModelConfig, model_config, size_pair
from effdet.errors import UsageError, shown
from effdet.flags import option
from effdet.settings import shared_help
from effdet.settings.anchors import parse_anchors
from effdet.settings.train import MAX_WORKERS
from effdet.settings.train_options import DEFAULT_MODEL
from effdet.settings.values import MAX_PIXELS, refuse_changed, require, require_pixels


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Settings of ``effdet check``."""

    data: str = option(help="data folder, or 'shapes': the built-in set", positional=True)
    splits: tuple[str, ...] = option(
        (), metavar="NAME", help="the only splits to look at (default: all)"
    )
    model: str = option(DEFAULT_MODEL, help="model whose anchors and input size are looked at")
    image_size: tuple[int, ...] | None = option(
        None, help="input pixels instead of the model's: side, or height width"
    )
    anchors: str | None = option(
        None, help="anchors instead of the model's, as train.py takes them: 1,2,0.5@4x3"
    )
    images: bool = option(True, help="decode every image; without, only annotations and names")
    workers: int | None = option(None, help="images decoded at once (default: by CPUs)")
    max_pixels: int = option(MAX_PIXELS, help=shared_help.PIXELS)
    follow_links: bool = option(False, help=shared_help.FOLLOW_LINKS)
    examples: int = option(5, help="examples of each finding")
    json: str | None = option(
        None,
        metavar="FILE",
        help="write the findings here as JSON; - prints nothing else",
        in_file=False,
    )
    html: str | None = option(
        None, metavar="FILE", help="write a page with pictures of the findings here", in_file=False
    )

    def __post_init__(self) -> None:
        require_pixels(self.max_pixels)
        require(self, ("examples",), lambda v: 0 <= v <= 1000, "in [0, 1000]")
        if self.workers is not None:
            require(self, ("workers",), lambda v: 1 <= v <= MAX_WORKERS, f"in [1, {MAX_WORKERS}]")
        if self.html == "-":
            raise UsageError("--html needs a file; only --json can be printed")
        if not self.images:
            refuse_changed(self, ("workers",), "with --no-images")
        for name in self.splits:
            if self.splits.count(name) > 1:
                raise UsageError(f"--splits: {shown(name)} stands there twice; name it once")
        _ = self.model_config()

    def model_config(self) -> ModelConfig:
        """The model whose anchors are looked at."""
        changes: dict[str, Any] = {} if self.anchors is None else parse_anchors(self.anchors)
        if self.image_size is not None:
            changes["image_size"] = size_pair(self.image_size)
        return model_config(self.model, **changes)
