# SPDX-License-Identifier: Apache-2.0
"""Do exported files give what PyTorch gives, on every image of a data set?

    python benchmarks/export.py --weights A/best.pt B/best.pt --data DATA_OF_A DATA_OF_B

Exports the weights in every format, runs all of them on all images, and holds each image's
detections against those of PyTorch: largest difference of boxes (original pixels) and scores of
detections that belong together, detections that are others because scores or overlaps tie, and such
as PyTorch's network does not have at all; and the AP of each. Then D0 with random weights: raw
outputs alone. Writes results/export.json.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measuring import FORMS, write_result
from torch import Tensor
from tqdm import tqdm

from effdet.anchors import build_anchors
from effdet.boxes import decode_boxes
from effdet.config import model_config
from effdet.data import CocoDataset, EvalTransform, locate_split, read_split
from effdet.evaluation import CocoEvaluator, GroundTruth
from effdet.export import ENDINGS, Difference, ExportedNetwork, Rows, compare_detections, export
from effdet.export.network import DeployedNetwork
from effdet.inference import Detector, load
from effdet.levels import flatten_levels
from effdet.postprocess import Postprocessing
from effdet.settings import ExportConfig, PostprocessConfig
from tests.export.lively import pictures, save_lively

HARD = PostprocessConfig(nms="hard", max_candidates=3840)
SOFT = PostprocessConfig()
BOX_LIMIT, SCORE_LIMIT, AP_LIMIT = 0.5, 1e-3, 1e-3
LIMITS = {"box_pixels": BOX_LIMIT, "score": SCORE_LIMIT, "AP": AP_LIMIT}
LOOSE = {"box_tolerance": 1.0, "score_tolerance": 0.01}
"""Pixels and scores; random boxes may be larger than the image. What counts is compared here."""


def main() -> None:
    """Export, run, compare, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", required=True, nargs="+")
    parser.add_argument("--data", required=True, nargs="+", help="a data set for each weights")
    parser.add_argument("--split", default="val")
    parser.add_argument("--skip", nargs="*", default=[], choices=list(FORMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forms = {name: words for name, words in FORMS.items() if name not in arguments.skip}
    result: dict[str, Any] = {"limits": LIMITS, "cases": []}
    for weights, data in zip(arguments.weights, arguments.data, strict=True):
        result["cases"].append(compare_weights(weights, data, arguments.split, forms))
        write_result("export", result)  # each takes minutes
    result["efficientdet_d0, random weights"] = structure = compare_d0()
    write_result("export", result)
    faults = [fault for case in result["cases"] for row in case["forms"] for fault in judge(row)]
    faults += [f"D0: {row}" for row in structure if row["largest_relative_difference"] > 1e-4]
    if faults:
        raise SystemExit("\n".join(faults))


def compare_weights(
    weights: str, data: str, split: str, forms: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The figures of every form of ``weights`` on a data set."""
    with tempfile.TemporaryDirectory() as folder:
        networks = {name: exported(weights, Path(folder), **words) for name, words in forms.items()}
        figures = compare_all(load(weights, device="cpu"), networks, data, split)
    return {"data": f"{Path(data).name}, {split}", **figures}


def exported(weights: str, folder: Path, **words: Any) -> ExportedNetwork:
    """The file of ``effdet export WEIGHTS`` with these options."""
    output = folder / f"{words['format']}{len(list(folder.iterdir()))}{ENDINGS[words['format']]}"
    export(ExportConfig(weights=weights, output=str(output), **words))
    detector = load(output, trust_code=True)
    assert isinstance(detector.model, ExportedNetwork)
    return detector.model


@torch.inference_mode()
def compare_all(
    detector: Detector, networks: dict[str, ExportedNetwork], data: str, split: str
) -> dict[str, Any]:
    """Rows of figures, one a form."""
    files = locate_split(data, split, None, None)
    table = read_split(files, detector.class_map)
    dataset = CocoDataset(table, files.images, class_map=detector.class_map)
    truth, config = GroundTruth.load(table), detector.config
    transform = EvalTransform(config.image_size, config.mean, config.std)
    hard, soft = build(detector, HARD), build(detector, SOFT)
    anchors = build_anchors(config)
    inside = {name: network.build_postprocess(HARD) for name, network in networks.items()}
    scorers = {name: CocoEvaluator(truth, detector.class_map) for name in all_names(networks)}
    totals = {name: Difference() for name in networks}
    for index in tqdm(range(len(dataset)), "comparing"):
        image, target = transform(*dataset.load(index))
        logits, deltas = detector.model(image[None])
        rows = raw_rows(logits, deltas, anchors, target.scale)
        (expected,) = hard(logits, deltas, [target])
        scorers["PyTorch"].update(target.image_id, expected)
        scorers["PyTorch, soft-NMS"].update(target.image_id, soft(logits, deltas, [target])[0])
        for name, network in networks.items():
            outputs = network(image[None])
            (found,) = inside[name](*outputs, [target])
            scorers[name].update(target.image_id, found)
            limit = BOX_LIMIT / target.scale
            totals[name] += compare_detections(expected, found, rows, limit, SCORE_LIMIT)
            if not network.info.has_detections:
                (found,) = soft(*outputs, [target])
                scorers[f"{name}, soft-NMS"].update(target.image_id, found)
    aps = {name: scorer.evaluate().figures["AP"] or 0.0 for name, scorer in scorers.items()}
    rows_out = [row(name, totals[name], aps) for name in networks]
    for line in rows_out:
        print(line, flush=True)
    return {
        "model": config.name,
        "image_size": list(config.image_size),
        "images": len(dataset),
        "postprocess": "hard NMS at IoU 0.5, score above 0.001, 3840 candidates, 100 detections",
        "AP of PyTorch": round(aps["PyTorch"], 5),
        "AP of PyTorch, soft-NMS": round(aps["PyTorch, soft-NMS"], 5),
        "forms": rows_out,
    }


def all_names(networks: dict[str, ExportedNetwork]) -> list[str]:
    """What is scored: every form, and those with raw outputs with soft-NMS too."""
    raw = [name for name, network in networks.items() if not network.info.has_detections]
    return [*networks, "PyTorch", *(f"{name}, soft-NMS" for name in ["PyTorch", *raw])]


def build(detector: Detector, config: PostprocessConfig) -> Postprocessing:
    """The post-processing of PyTorch."""
    return detector.build_postprocess(**dataclasses.asdict(config))


def raw_rows(
    cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], anchors: Tensor, scale: float
) -> Rows:
    """What the network gave, boxes in original pixels."""
    deltas = flatten_levels(box_deltas, 4)
    classes = sum(x[0].numel() for x in cls_logits) // len(anchors)
    return Rows(
        scores=flatten_levels(cls_logits, classes)[0].sigmoid(),
        boxes=decode_boxes(deltas, anchors)[0] / scale,
    )


def row(name: str, total: Difference, aps: dict[str, float]) -> dict[str, Any]:
    """The figures of one form."""
    figures = {
        "form": name,
        "detections": total.detections,
        "largest_box_difference_pixels": float(f"{total.boxes:.2g}"),
        "largest_score_difference": float(f"{total.scores:.2g}"),
        "others_where_scores_tie": total.ties,
        "missing": total.missing,
        "AP": round(aps[name], 5),
        "AP_minus_PyTorch": round(aps[name] - aps["PyTorch"], 6),
    }
    soft = f"{name}, soft-NMS"
    if soft in aps:
        figures["AP_soft_nms_minus_PyTorch"] = round(aps[soft] - aps["PyTorch, soft-NMS"], 6)
    return figures


def judge(row: dict[str, Any]) -> list[str]:
    """What is beyond its limit."""
    limits = {
        "largest_box_difference_pixels": BOX_LIMIT,
        "largest_score_difference": SCORE_LIMIT,
        "missing": 0,
        "AP_minus_PyTorch": AP_LIMIT,
        "AP_soft_nms_minus_PyTorch": AP_LIMIT,
    }
    return [
        f"{row['form']}: {name} {row[name]}, must be at most {limit}"
        for name, limit in limits.items()
        if abs(row.get(name, 0)) > limit
    ]


@torch.inference_mode()
def compare_d0() -> list[dict[str, Any]]:
    """D0 at 512 pixels with random weights: largest difference by the largest value."""
    result = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = save_lively(model_config("efficientdet_d0", num_classes=3), folder / "d0.pt")
        reference = load(weights, device="cpu")
        network = DeployedNetwork(reference.model, reference.config)
        # As the statistics of the weights were taken: noise would blow up, and its rounding too.
        images = pictures(reference.config, 2)
        expected = network(images)
        for form in ("onnx", "openvino"):
            found = exported(str(weights), folder, format=form, **LOOSE).outputs(images)
            worst = max(
                float((a - b).abs().max() / a.abs().max())
                for a, b in zip(expected, found, strict=True)
            )
            result.append({"form": form, "largest_relative_difference": float(f"{worst:.2g}")})
            print(result[-1], flush=True)
    return result


if __name__ == "__main__":
    main()
