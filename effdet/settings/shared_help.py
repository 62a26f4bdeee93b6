# SPDX-License-Identifier: Apache-2.0
"""What ``--help`` says of the options that several programs have."""

DATA = "data folder: COCO, VOC, YOLO or CSV; or 'shapes': the built-in set"
IMAGE_SIZE = "input pixels: side, or height width"
FOLLOW_LINKS = "read files that a link leads to outside of the data folder"
PIXELS = "pixels of an image; one with more is refused before decoding"
DEVICE = "cpu, cuda or cuda:N (default: a GPU if there is one)"
LOADERS = "loader processes each (default: by CPUs)"
CHANNELS_LAST = "keep images and features channels-last in memory"
EVALUATOR = "library that computes the COCO figures"
TRUST_CODE = "run weights that are code: a .pt2 of effdet export that you trust"
