# SPDX-License-Identifier: Apache-2.0
"""The data of a run: both splits, image sizes, loaders."""

from typing import Any

import torch

from effdet import distributed
from effdet.config import ModelConfig
from effdet.data import (
    CocoDataset,
    EvalTransform,
    ImageSizes,
    Loader,
    SplitFiles,
    TrainTransform,
    build_eval_loader,
    build_train_loader,
    locate_split,
    read_split,
)
from effdet.evaluation import GroundTruth
from effdet.settings import TrainConfig


def locate_datasets(config: TrainConfig) -> tuple[SplitFiles, SplitFiles]:
    """Where the training set and the validation set are."""
    train_files = locate_split(
        config.data, config.train_split, config.train_annotations, config.train_images
    )
    val_files = locate_split(
        config.data, config.val_split, config.val_annotations, config.val_images
    )
    return train_files, val_files


def build_datasets(config: TrainConfig) -> tuple[CocoDataset, CocoDataset, GroundTruth]:
    """The training set, whose categories are the classes, the validation set and its boxes."""
    train_files, val_files = locate_datasets(config)
    follow_links = config.follow_links
    reading: dict[str, Any] = {
        "strict": config.strict_data,
        "follow_links": follow_links,
        "max_pixels": config.max_pixels,
    }
    train_table = read_split(train_files, follow_links=follow_links)
    train_set = CocoDataset(train_table, train_files.images, **reading)
    train_set.require_boxes()
    class_map = train_set.class_map
    val_table = read_split(val_files, class_map, follow_links=follow_links)
    val_set = CocoDataset(val_table, val_files.images, class_map=class_map, **reading)
    return train_set, val_set, GroundTruth.load(val_table)


def image_sizes(config: TrainConfig, model_config: ModelConfig) -> ImageSizes:
    """The size of the training images of every step."""
    return ImageSizes(
        model_config.image_size,
        epochs=config.total_epochs,
        multi_scale=config.multi_scale,
        stages=config.progressive,
        seed=config.seed,
    )


def build_loaders(
    config: TrainConfig,
    model_config: ModelConfig,
    sizes: ImageSizes,
    train_set: CocoDataset,
    val_set: CocoDataset,
    device: torch.device,
) -> tuple[Loader, Loader]:
    """Augmented, shuffled batches to train on, and letterboxed ones to validate on."""
    model_input = (model_config.image_size, model_config.mean, model_config.std)
    loading: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": distributed.num_workers(config.workers),
        "device": device,
        "timeout": config.timeout,
        "max_bad_images": config.max_bad_images,
    }
    augment = TrainTransform(
        *model_input, jitter=(config.jitter_min, config.jitter_max), flip=config.flip
    )
    return (
        build_train_loader(
            train_set,
            augment,
            seed=config.seed,
            accumulate=config.accumulate,
            sizes=sizes,
            **loading,
        ),
        build_eval_loader(val_set, EvalTransform(*model_input), **loading),
    )
