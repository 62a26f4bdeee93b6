# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from effdet import flags, presets, training
from effdet.presets import PRESETS
from effdet.settings import AverageConfig, TrainConfig
from effdet.training import RateSchedule

ROOT = Path(__file__).parents[1]
GUIDE = "\n".join((ROOT / "docs" / name).read_text() for name in ("training.md", "finetuning.md"))
FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def schedule_of(config: TrainConfig, *, images: int, processes: int) -> RateSchedule:
    """The rates of a run with ``images`` training images."""
    return training.schedule_of(config, images // config.images_per_step(processes), processes)


def parsed(text: str) -> list[TrainConfig]:
    """The settings of every ``train.py`` command in ``text``."""
    commands = re.findall(r"\btrain\.py((?: [^`#\n]*)?)", text)
    return [
        flags.parse(
            TrainConfig, shlex.split(words), program="train.py", description="", presets=PRESETS
        )
        for words in commands
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_every_key_is_an_option_and_changes_it(name: str) -> None:
    config = TrainConfig(**PRESETS[name])
    repeated = {"batch_size", "data", "epochs", "model"}  # said in the preset, though the default
    for key, value in PRESETS[name].items():
        assert getattr(config, key) == value
        assert key in repeated or value != FIELDS[key].default, key


def test_every_preset_is_described_by_a_command_that_works() -> None:
    assert presets.__doc__ is not None
    entries = re.split(r"\n(?=``\w+``:)", presets.__doc__)[1:]
    assert [re.match(r"``(\w+)``", entry).group(1) for entry in entries] == list(PRESETS)
    for name, entry in zip(PRESETS, entries, strict=True):
        (config,) = parsed(" ".join(entry.split()))
        for key, value in PRESETS[name].items():
            assert getattr(config, key) == value


def test_the_measured_figures_are_those_of_the_result_files() -> None:
    assert presets.__doc__ is not None
    results = ROOT / "benchmarks" / "results"
    demo = json.loads((results / "demo_shapes.json").read_text())
    assert f"{demo['training_seconds'] / 60:.0f} minutes" in presets.__doc__
    assert f"AP {demo['validation']['figures']['AP']:.3f}" in presets.__doc__
    cells = json.loads((results / "bccd_lite0.json").read_text())
    assert f"{cells['training_seconds'] / 60:.0f} minutes" in presets.__doc__
    assert f"AP50 {cells['validation']['figures']['AP50']:.2f}" in presets.__doc__


def test_the_guide_tells_the_measured_figures_of_fine_tuning() -> None:
    runs = json.loads((ROOT / "benchmarks" / "results" / "finetune_bccd.json").read_text())["runs"]
    aps = {name: run["epochs"][-1]["AP"] for name, run in runs.items()}
    part = GUIDE.split("Measured on 205 images")[1].split("**Averages.**")[0]
    assert len(aps) == 5
    for name, ap in aps.items():
        assert f"{ap:.3f}" in part, name
    assert aps["one_phase"] > aps["scratch"] + 0.1


def test_the_finetune_presets_rate_is_0_001_at_its_own_batch() -> None:
    rates = schedule_of(TrainConfig(**PRESETS["finetune"]), images=800, processes=1)
    assert rates.lr == pytest.approx(0.001)


def test_nvidias_rates_are_the_published_ones_at_coco_on_eight_gpus() -> None:
    config = TrainConfig(**PRESETS["nvidia"])
    rates = schedule_of(config, images=118_287, processes=8)
    steps = 98
    assert rates.total_steps == 310 * steps
    golden = {0: 1e-4, 49: 1.597402, 50: 1.520812, 121: 1.46633, 122: 0.51189, 309: 1e-5}
    for epoch, rate in golden.items():
        assert rates(epoch * steps) == pytest.approx(rate, rel=1e-5), epoch


@pytest.mark.parametrize(("name", "epochs"), [("paper", 300), ("paper_d7", 600)])
def test_the_papers_global_batch_is_128_on_eight_processes(name: str, epochs: int) -> None:
    config = TrainConfig(**PRESETS[name])
    rates = schedule_of(config, images=118_287, processes=8)
    assert rates.total_steps == epochs * (118_287 // 128)
    assert rates.lr == 0.16
    assert rates(0) == pytest.approx(0.016)


def test_every_command_of_the_guide_has_options_that_exist() -> None:
    text = re.sub(r"\\\n\s*", "", GUIDE)
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    assert len(parsed(blocks)) == 7


def test_every_option_the_guide_names_exists() -> None:
    known = {f"--{name.replace('_', '-')}" for name in FIELDS}
    known |= {"--config", "--debug", "--preset", "--help"}
    known |= {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(AverageConfig)}
    torchrun = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id",
                "--max-restarts", "--standalone"}  # fmt: skip
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", GUIDE))
    named = {re.sub(r"^--no-", "--", name) for name in named}
    assert named <= known | torchrun
