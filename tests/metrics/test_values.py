# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet.metrics.values import plain, plain_values


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (torch.tensor([3]), [3]),
        (torch.tensor(True), True),
        (np.array([[1.0, math.nan]]), [[1.0, None]]),
        (math.nan, None),
        (-math.inf, None),
        (np.float64(math.inf), None),
        (np.float32(math.nan), None),
        (torch.tensor(math.inf), None),
        ((64, 96), [64, 96]),
        ({"a": {1: math.nan}}, {"a": {"1": None}}),
        (Path("a/b"), "a/b"),
        (torch.float16, "torch.float16"),
        (None, None),
        (True, True),
        ("ema", "ema"),
    ],
)
def test_any_value_becomes_one_that_json_holds(value: Any, wanted: Any) -> None:
    found = plain(value)
    assert found == wanted
    assert type(found) is type(wanted)
    assert json.loads(json.dumps(found, allow_nan=False)) == wanted


def test_values_keep_their_names_and_order() -> None:
    assert list(plain_values({"b": 1, "a": np.float32(2)}).items()) == [("b", 1), ("a", 2.0)]
