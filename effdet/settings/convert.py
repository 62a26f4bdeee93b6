# SPDX-License-Identifier: Apache-2.0
"""Settings of ``effdet convert``."""

from dataclasses import dataclass

from effdet.config import Padding
from effdet.errors import SettingError
from effdet.flags import option
from effdet.settings.values import require_input


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Settings of ``effdet convert``."""

    source: str = option(
        help="weights of any known kind, or the name of a public release",
        positional=True,
    )
    output: str = option(help="file to write, .safetensors or .pt", positional=True)
    model: str | None = option(None, help="which of models whose tensors are alike (D6, D7)")
    padding: Padding | None = option(None, help="likewise: as TensorFlow (same) or as PyTorch")
    classes: tuple[str, ...] = option(
        (), metavar="NAME", help="names of the class outputs, in their order"
    )
    mean: tuple[float, float, float] | None = option(
        None, help="subtracted from RGB values in 0-255, where it is not the usual (AdvProp: 127.5)"
    )
    std: tuple[float, float, float] | None = option(
        None, help="divides them after that (AdvProp: 127.5)"
    )
    licence: str = option("", help="licence of the weights, such as Apache-2.0")
    use_ema: bool = option(True, help="take the averaged weights where the file has them")

    def __post_init__(self) -> None:
        require_input(self.mean, self.std)
        faults = [name for name in self.classes if not name.strip()]
        faults += [name for name in self.classes if self.classes.count(name) > 1]
        if faults:
            raise SettingError("classes", f"must be names that differ, got {faults[0]!r}")
