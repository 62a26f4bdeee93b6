# SPDX-License-Identifier: Apache-2.0
"""EfficientDet: train, validate and use detectors on EfficientNet backbones."""

__version__ = "0.1.0"
