# SPDX-License-Identifier: Apache-2.0
"""Public weights that can be named: only files whose names and hashes their programs publish.

Figures are the programs' own: mAP on COCO val2017, or top-1 on ImageNet's validation set, in %. The
licence is the one that the program gives its files; the data they were trained on (COCO, ImageNet,
for ``ns_jft`` a set of Google's) may have terms of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effdet.config import BACKBONES, HALF, IMAGENET_MEAN, IMAGENET_STD, MODELS, Padding

Program = Literal["rwightman", "timm", "torchvision", "lukemelas"]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published file.

    Attributes:
        name: what a user calls it.
        url: where it lies.
        sha256: of its bytes, in hex: all 64 digits, or the first ones where no more are published.
        hash_from: where the hash is published: ``file name``, or an address.
        size: bytes, where they are published.
        model: row of ``MODELS`` (a detector with 90 classes) or ``BACKBONES`` (a classifier).
        score: mAP of a detector, top-1 of a classifier, in %; None where not published.
        mean: subtracted from RGB values in 0-255.
        std: divides the RGB values after that.
        padding: ``same`` as TensorFlow, ``symmetric`` as PyTorch.
        licence: SPDX name.
        source: the program whose tensor names it has: a module of ``effdet.weights.sources``.
    """

    name: str
    url: str
    sha256: str
    hash_from: str = "file name"
    size: int | None = None
    model: str
    score: float | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    padding: Padding = "same"
    licence: str = "Apache-2.0"
    source: Program

    @property
    def kind(self) -> Literal["detector", "classifier"]:
        """What the file holds."""
        return "detector" if self.model in MODELS else "classifier"

    @property
    def file_name(self) -> str:
        """The last part of its address, under which it is kept."""
        return self.url.rsplit("/", 1)[-1]


_RWIGHTMAN = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"
# In timm some addresses begin with the repository's former name; both lead to the same files.
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
_TORCHVISION = "https://download.pytorch.org/models/"
_LUKEMELAS = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/"

_WHOLE_HASHES = {
    "https://github.com/pytorch/vision/issues/7744": (
        "7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
        "c35c147384e385a5bab5a8eabdabbe5a3df0487ee4a554108626ae474a5bf755",
        "b3899882250c22946d0229d266049fcd133c169233530b36b9ffa7983988362f",
        "23ab8bcd5bdbef61a7a43b91adcad81f622fd7f36fb4935a569828d77888c44e",
        "1a07897c0d357db7981640f6be44a63420f11deb932344a69768b62ebe272946",
        "24a108a596a00ad522bdfb9a2d98a9bd31819dfd7e37dd96bad6bb5bc00d6015",
        "c5b4e57e0da1a10bb4f8a5b410dd3b7b6e7461f9b757209be29409707c3d87dd",
    ),
    "https://github.com/openvinotoolkit/open_model_zoo": (
        "99018a74e61e5948a955ebfaa2b02ba9abe7bb2e6b7f3d2dfe100e07e103bbdb",
        "076e3472fb198ec7c3091aecc73ff205bcca4a114f5862e2297a4c2720c91826",
    ),
}
"""Where SHA-256 is published in full: of other files the names hold the first digits alone."""

_SIZES = {
    "tf_efficientnet_b5_aa-99018a74.pth": 122_398_414,
    "tf_efficientnet_b7_aa-076e3472.pth": 266_843_942,
}

# fmt: off
# effdet 0.4.1: model_config.py, figures from its README.
_DETECTORS = [
    ("tf_efficientdet_d0",     "tf_efficientdet_d0_34-f153e0cf.pth",  34.2),
    ("tf_efficientdet_d1",     "tf_efficientdet_d1_40-a30f94af.pth",  40.1),
    ("tf_efficientdet_d2",     "tf_efficientdet_d2_43-8107aa99.pth",  43.4),
    ("tf_efficientdet_d3",     "tf_efficientdet_d3_47-0b525f35.pth",  47.1),
    ("tf_efficientdet_d4",     "tf_efficientdet_d4_49-f56376d9.pth",  49.2),
    ("tf_efficientdet_d5",     "tf_efficientdet_d5_51-c79f9be6.pth",  51.2),
    ("tf_efficientdet_d6",     "tf_efficientdet_d6_52-4eda3773.pth",  52.0),
    ("tf_efficientdet_d7",     "tf_efficientdet_d7_53-6d1d7a95.pth",  53.1),
    ("tf_efficientdet_d7x",    "tf_efficientdet_d7x-f390b87c.pth",    54.3),
    ("tf_efficientdet_d0_ap",  "tf_efficientdet_d0_ap-d0cdbd0a.pth",  34.8),
    ("tf_efficientdet_d1_ap",  "tf_efficientdet_d1_ap-7721d075.pth",  40.8),
    ("tf_efficientdet_d2_ap",  "tf_efficientdet_d2_ap-a2995c19.pth",  44.2),
    ("tf_efficientdet_d3_ap",  "tf_efficientdet_d3_ap-e4a2feab.pth",  47.7),
    ("tf_efficientdet_d4_ap",  "tf_efficientdet_d4_ap-f601a5fc.pth",  50.2),
    ("tf_efficientdet_d5_ap",  "tf_efficientdet_d5_ap-3673ae5d.pth",  52.1),
    ("tf_efficientdet_lite0",  "tf_efficientdet_lite0-dfacfc78.pth",  27.1),
    ("tf_efficientdet_lite1",  "tf_efficientdet_lite1-6dc7ab30.pth",  32.2),
    ("tf_efficientdet_lite2",  "tf_efficientdet_lite2-86c5d55b.pth",  35.9),
    ("tf_efficientdet_lite3",  "tf_efficientdet_lite3-506852cb.pth",  39.6),
    ("tf_efficientdet_lite3x", "tf_efficientdet_lite3x-8404c57b.pth", 43.6),
    ("tf_efficientdet_lite4",  "tf_efficientdet_lite4-391ddabc.pth",  44.2),
    ("efficientdet_d0",        "efficientdet_d0-f3276ba8.pth",        33.6),
    ("efficientdet_d1",        "efficientdet_d1-bb7e98fe.pth",        39.4),
]

# timm 1.0.31: efficientnet.py, figures from its results-imagenet.csv (mostly at larger images than
# the models were trained on). _in1k: ImageNet; _ap: AdvProp; _ns_jft: Noisy Student.
_TIMM_CLASSIFIERS = [
    ("efficientnet_b0.ra_in1k",        "efficientnet_b0_ra-3dd342df.pth",      77.694),
    ("efficientnet_b1.ft_in1k",        "efficientnet_b1-533bc792.pth",         78.800),
    ("efficientnet_b2.ra_in1k",        "efficientnet_b2_ra-bcdf34b7.pth",      80.610),
    ("efficientnet_b3.ra2_in1k",       "efficientnet_b3_ra2-cf984f9c.pth",     82.242),
    ("efficientnet_b4.ra2_in1k",       "efficientnet_b4_ra2_320-7eb33cd5.pth", 83.414),
    ("efficientnet_lite0.ra_in1k",     "efficientnet_lite0_ra-37913777.pth",   75.480),
    ("tf_efficientnet_b0.in1k",        "tf_efficientnet_b0-0af12548.pth",      76.532),
    ("tf_efficientnet_b1.in1k",        "tf_efficientnet_b1-5c1377c4.pth",      78.560),
    ("tf_efficientnet_b2.in1k",        "tf_efficientnet_b2-e393ef04.pth",      79.604),
    ("tf_efficientnet_b3.in1k",        "tf_efficientnet_b3-e3bd6955.pth",      80.878),
    ("tf_efficientnet_b4.in1k",        "tf_efficientnet_b4-74ee3bed.pth",      82.608),
    ("tf_efficientnet_b5.in1k",        "tf_efficientnet_b5-c6949ce9.pth",      83.176),
    ("tf_efficientnet_b0.aa_in1k",     "tf_efficientnet_b0_aa-827b6e33.pth",   76.834),
    ("tf_efficientnet_b1.aa_in1k",     "tf_efficientnet_b1_aa-ea7a6ee0.pth",   78.830),
    ("tf_efficientnet_b2.aa_in1k",     "tf_efficientnet_b2_aa-60c94f97.pth",   80.084),
    ("tf_efficientnet_b3.aa_in1k",     "tf_efficientnet_b3_aa-84b4657e.pth",   81.644),
    ("tf_efficientnet_b4.aa_in1k",     "tf_efficientnet_b4_aa-818f208c.pth",   83.018),
    ("tf_efficientnet_b5.aa_in1k",     "tf_efficientnet_b5_aa-99018a74.pth",   83.688),
    ("tf_efficientnet_b6.aa_in1k",     "tf_efficientnet_b6_aa-80ba17e4.pth",   84.116),
    ("tf_efficientnet_b7.aa_in1k",     "tf_efficientnet_b7_aa-076e3472.pth",   84.414),
    ("tf_efficientnet_b5.ra_in1k",     "tf_efficientnet_b5_ra-9a3e5369.pth",   83.810),
    ("tf_efficientnet_b7.ra_in1k",     "tf_efficientnet_b7_ra-6c08e654.pth",   84.932),
    ("tf_efficientnet_b0.ap_in1k",     "tf_efficientnet_b0_ap-f262efe1.pth",   77.090),
    ("tf_efficientnet_b1.ap_in1k",     "tf_efficientnet_b1_ap-44ef0a3d.pth",   79.280),
    ("tf_efficientnet_b2.ap_in1k",     "tf_efficientnet_b2_ap-2f8e7636.pth",   80.308),
    ("tf_efficientnet_b3.ap_in1k",     "tf_efficientnet_b3_ap-aad25bdd.pth",   81.826),
    ("tf_efficientnet_b4.ap_in1k",     "tf_efficientnet_b4_ap-dedb23e6.pth",   83.250),
    ("tf_efficientnet_b5.ap_in1k",     "tf_efficientnet_b5_ap-9e82fae8.pth",   84.258),
    ("tf_efficientnet_b6.ap_in1k",     "tf_efficientnet_b6_ap-4ffb161f.pth",   84.786),
    ("tf_efficientnet_b7.ap_in1k",     "tf_efficientnet_b7_ap-ddb28fec.pth",   85.122),
    ("tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b0_ns-c0e6a31c.pth",   78.670),
    ("tf_efficientnet_b1.ns_jft_in1k", "tf_efficientnet_b1_ns-99dd0c41.pth",   81.394),
    ("tf_efficientnet_b2.ns_jft_in1k", "tf_efficientnet_b2_ns-00306e48.pth",   82.378),
    ("tf_efficientnet_b3.ns_jft_in1k", "tf_efficientnet_b3_ns-9d44bf68.pth",   84.056),
    ("tf_efficientnet_b4.ns_jft_in1k", "tf_efficientnet_b4_ns-d6313a46.pth",   85.162),
    ("tf_efficientnet_b5.ns_jft_in1k", "tf_efficientnet_b5_ns-6f26d0cf.pth",   86.088),
    ("tf_efficientnet_b6.ns_jft_in1k", "tf_efficientnet_b6_ns-51548356.pth",   86.456),
    ("tf_efficientnet_b7.ns_jft_in1k", "tf_efficientnet_b7_ns-1dbc32de.pth",   86.840),
    ("tf_efficientnet_lite0.in1k",     "tf_efficientnet_lite0-0aa007d2.pth",   74.830),
    ("tf_efficientnet_lite1.in1k",     "tf_efficientnet_lite1-bde8b488.pth",   76.644),
    ("tf_efficientnet_lite2.in1k",     "tf_efficientnet_lite2-dcccb7df.pth",   77.464),
    ("tf_efficientnet_lite3.in1k",     "tf_efficientnet_lite3-b733e338.pth",   79.808),
    ("tf_efficientnet_lite4.in1k",     "tf_efficientnet_lite4-741542c3.pth",   81.532),
]

# torchvision 0.29.1: efficientnet.py. The hashes in the names of its first releases were wrong.
_TORCHVISION_CLASSIFIERS = [
    ("torchvision_efficientnet_b0",    "efficientnet_b0_rwightman-7f5810bc.pth", 77.692),
    ("torchvision_efficientnet_b1",    "efficientnet_b1_rwightman-bac287d4.pth", 78.642),
    ("torchvision_efficientnet_b1_v2", "efficientnet_b1-c27df63c.pth",           79.838),
    ("torchvision_efficientnet_b2",    "efficientnet_b2_rwightman-c35c1473.pth", 80.608),
    ("torchvision_efficientnet_b3",    "efficientnet_b3_rwightman-b3899882.pth", 82.008),
    ("torchvision_efficientnet_b4",    "efficientnet_b4_rwightman-23ab8bcd.pth", 83.384),
    ("torchvision_efficientnet_b5",    "efficientnet_b5_lukemelas-1a07897c.pth", 83.444),
    ("torchvision_efficientnet_b6",    "efficientnet_b6_lukemelas-24a108a5.pth", 84.008),
    ("torchvision_efficientnet_b7",    "efficientnet_b7_lukemelas-c5b4e57e.pth", 84.122),
]

# efficientnet-pytorch: utils.py (url_map, url_map_advprop), figures from its README.
_LUKEMELAS_CLASSIFIERS = [
    ("lukemelas_efficientnet_b0",         "efficientnet-b0-355c32eb.pth",     76.3),
    ("lukemelas_efficientnet_b1",         "efficientnet-b1-f1951068.pth",     78.8),
    ("lukemelas_efficientnet_b2",         "efficientnet-b2-8bb594d6.pth",     79.8),
    ("lukemelas_efficientnet_b3",         "efficientnet-b3-5fb5a3c3.pth",     81.1),
    ("lukemelas_efficientnet_b4",         "efficientnet-b4-6ed6700e.pth",     82.6),
    ("lukemelas_efficientnet_b5",         "efficientnet-b5-b6417697.pth",     83.3),
    ("lukemelas_efficientnet_b6",         "efficientnet-b6-c76e70fd.pth",     84.0),
    ("lukemelas_efficientnet_b7",         "efficientnet-b7-dcc49843.pth",     84.4),
    ("lukemelas_efficientnet_b0_advprop", "adv-efficientnet-b0-b64d5a18.pth", None),
    ("lukemelas_efficientnet_b1_advprop", "adv-efficientnet-b1-0f3ce85a.pth", None),
    ("lukemelas_efficientnet_b2_advprop", "adv-efficientnet-b2-6e9d97e5.pth", None),
    ("lukemelas_efficientnet_b3_advprop", "adv-efficientnet-b3-cdd7c0f4.pth", None),
    ("lukemelas_efficientnet_b4_advprop", "adv-efficientnet-b4-44fb3a87.pth", None),
    ("lukemelas_efficientnet_b5_advprop", "adv-efficientnet-b5-86493f6b.pth", None),
    ("lukemelas_efficientnet_b6_advprop", "adv-efficientnet-b6-ac80338e.pth", None),
    ("lukemelas_efficientnet_b7_advprop", "adv-efficientnet-b7-4652b6dd.pth", None),
]
# fmt: on


def _release(source: Program, base: str, name: str, file_name: str, score: float | None) -> Release:
    """The row of ``file_name``; all else follows from its name and the program."""
    sha256, hash_from = _hash(file_name)
    # AdvProp was trained on [-1, 1]. So are rwightman's and timm's Lite models of TensorFlow's
    # weights used, and their figures measured, though the original divides by 128 around 127.
    half = re.search(r"[._](ap|advprop)(_|$)|^tf_.*_lite", name) is not None
    return Release(
        name=name,
        url=base + file_name,
        sha256=sha256,
        hash_from=hash_from,
        size=_SIZES.get(file_name),
        model=_model(name),
        score=score,
        mean=HALF if half else IMAGENET_MEAN,
        std=HALF if half else IMAGENET_STD,
        padding="same" if source == "lukemelas" or name.startswith("tf_") else "symmetric",
        licence="BSD-3-Clause" if source == "torchvision" else "Apache-2.0",
        source=source,
    )


def _hash(file_name: str) -> tuple[str, str]:
    """SHA-256, as much of it as is published, and where that is."""
    prefix = file_name.removesuffix(".pth").rpartition("-")[2]
    for address, hashes in _WHOLE_HASHES.items():
        for sha256 in hashes:
            if sha256.startswith(prefix):
                return sha256, address
    return prefix, "file name"


def _model(name: str) -> str:
    """The longest of our models' names in ``name``."""
    return max((known for known in (*MODELS, *BACKBONES) if known in name), key=len)


_PROGRAMS: list[tuple[Program, str, Sequence[tuple[str, str, float | None]]]] = [
    ("rwightman", _RWIGHTMAN, _DETECTORS),
    ("timm", _TIMM, _TIMM_CLASSIFIERS),
    ("torchvision", _TORCHVISION, _TORCHVISION_CLASSIFIERS),
    ("lukemelas", _LUKEMELAS, _LUKEMELAS_CLASSIFIERS),
]
RELEASES: dict[str, Release] = {
    name: _release(source, base, name, file_name, score)
    for source, base, rows in _PROGRAMS
    for name, file_name, score in rows
}


def release_with_hash(sha256: str) -> Release | None:
    """The release whose bytes have this SHA-256 of 64 digits; None where there is none."""
    return next((r for r in RELEASES.values() if sha256.startswith(r.sha256)), None)


def release_of_file(path: str | Path) -> Release | None:
    """The release whose file has the name of ``path``; its bytes are not looked at."""
    return next((r for r in RELEASES.values() if r.file_name == Path(path).name), None)
