# SPDX-License-Identifier: Apache-2.0
from effdet.counts import counted


def test_one_is_no_plural_and_none_is() -> None:
    assert counted(1, "epoch") == "1 epoch"
    assert counted(0, "epoch") == "0 epochs"
    assert counted(12_000, "box", "boxes") == "12,000 boxes"
    assert counted(1, "box", "boxes") == "1 box"
