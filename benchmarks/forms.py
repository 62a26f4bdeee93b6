# SPDX-License-Identifier: Apache-2.0
"""How fast and how good are the exported forms of weights, beside the weights?

    python benchmarks/forms.py --weights runs/mine/best.pt --data DATA

Exports the weights in every form, and runs what ``effdet benchmark`` runs on all of them: the forms
take turns call by call, each in a process of its own. AOTInductor compiles for minutes and is left
out unless --aoti. Writes results/forms.json.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import FORMS, write_result

from effdet.benchmark import benchmark, format_report
from effdet.export import ENDINGS, export
from effdet.settings import BenchmarkConfig, ExportConfig


def main() -> None:
    """Export, time in turn, score, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=16, help="images that are timed, in turn")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--aoti", action="store_true")
    arguments = parser.parse_args()
    forms = [words for words in FORMS.values() if arguments.aoti or words["format"] != "aoti"]
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / file_name(words) for words in forms]
        for file, words in zip(files, forms, strict=True):
            export(ExportConfig(weights=arguments.weights, output=str(file), **words))
        report = benchmark(
            BenchmarkConfig(
                weights=(arguments.weights, *map(str, files)),
                data=arguments.data,
                split=arguments.split,
                count=arguments.count,
                batch_size=tuple(arguments.batch_size),
                rounds=arguments.rounds,
                threads=arguments.threads,
                device="cpu",
                trust_code=True,
            )
        )
    print(format_report(report))
    rows = [dataclasses.asdict(row) | {"weights": Path(row.weights).name} for row in report.rows]
    data = f"{Path(arguments.data).name}, {arguments.split}"
    write_result("forms", {"data": data, "rounds": report.rounds, "forms": rows})


def file_name(words: dict[str, Any]) -> str:
    """``onnx.onnx``, or ``onnx-nms.onnx`` with the post-processing inside."""
    nms = "-nms" if words.get("detections") else ""
    return f"{words['format']}{nms}{ENDINGS[words['format']]}"


if __name__ == "__main__":
    main()
