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

from measuring import write_result

from effdet.benchmark import benchmark, format_report
from effdet.export import export
from effdet.settings import BenchmarkConfig, ExportConfig

FORMS: dict[str, dict[str, Any]] = {
    "raw.onnx": {"format": "onnx"},
    "nms.onnx": {"format": "onnx", "detections": True, "score_threshold": 0.001},
    "raw.xml": {"format": "openvino"},
    "nms.xml": {"format": "openvino", "detections": True, "score_threshold": 0.001},
    "program.pt2": {"format": "torch-export"},
}
AOTI: dict[str, Any] = {"compiled.pt2": {"format": "aoti"}}


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
    forms = FORMS | (AOTI if arguments.aoti else {})
    with tempfile.TemporaryDirectory() as name:
        files = {form: Path(name) / form for form in forms}
        for form, words in forms.items():
            export(ExportConfig(weights=arguments.weights, output=str(files[form]), **words))
        report = benchmark(
            BenchmarkConfig(
                weights=(arguments.weights, *map(str, files.values())),
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


if __name__ == "__main__":
    main()
