# SPDX-License-Identifier: Apache-2.0
"""How faults are planted."""

from collections.abc import Callable

from tests.check.sets import DataSet

Plant = Callable[[DataSet], object]


class Plants(dict[str, list[Plant]]):
    """Functions that plant a fault, by the id under which it must be found."""

    def under(self, id_: str) -> Callable[[Plant], Plant]:
        """Takes in the function that it marks."""

        def add(plant: Plant) -> Plant:
            self.setdefault(id_, []).append(plant)
            return plant

        return add


def set_box(data: DataSet, bbox: list[float], index: int = 0) -> None:
    data.box(index)["bbox"], data.box(index)["area"] = bbox, bbox[2] * bbox[3]
