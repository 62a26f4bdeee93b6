# SPDX-License-Identifier: Apache-2.0
import json
import platform
import sys
from pathlib import Path

import pytest
import torch

from effdet import __version__
from effdet.metrics import environment as module
from effdet.metrics.environment import append_environment, environment, peak_memory

CPU = torch.device("cpu")


def test_versions_hardware_and_command_line_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    found = environment(CPU, 4)
    assert found["arguments"] == ["train.py", "--lr", "0.1"]
    assert found["versions"]["effdet"] == __version__
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["versions"]["python"] == platform.python_version()
    assert (found["world_size"], found["device"], found["gpus"]) == (4, "cpu", [])
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert found["cpu"]["model"]
    assert found["cpu"]["count"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_nothing_of_the_environment_variables_or_the_host_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-mine")
    monkeypatch.setattr(platform, "node", lambda: "host-of-mine")
    assert "of-mine" not in json.dumps(environment(CPU, 1))


def test_the_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    assert environment(torch.device("cuda", 0), 2)["gpus"] == ["GPU 0", "GPU 1"]


def test_each_start_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    for number in (1, 2):
        append_environment(path, {"start": number})
    assert json.loads(path.read_text()) == [{"start": 1}, {"start": 2}]
    path.write_text("[{torn")
    append_environment(path, {"start": 3})
    assert json.loads(path.read_text()) == [{"start": 3}]
    assert list(tmp_path.iterdir()) == [path]


def test_memory_is_the_peak_of_the_gpu_or_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = peak_memory(CPU)
    assert before is not None
    block = torch.ones(50_000_000)
    after = peak_memory(None)
    assert after is not None
    assert after >= max(before, block.nbytes)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 17)
    assert peak_memory(torch.device("cuda", 0)) == 17


def test_the_cpu_has_a_name_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, *_: object) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert module._cpu_model() in (platform.processor(), platform.machine())
