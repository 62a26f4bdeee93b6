# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from effdet.data.sampler import TrainSampler
from effdet.data.sizes import ImageSizes
from effdet.errors import UsageError


def stages(image_size: tuple[int, int], num_stages: int, epochs: int) -> list[tuple[int, int]]:
    """The size of a step inside each epoch."""
    sizes = ImageSizes(image_size, epochs=epochs, stages=num_stages)
    return [sizes(epoch, 8) for epoch in range(1, epochs + 1)]


def test_by_default_every_image_has_the_full_size() -> None:
    sizes = ImageSizes((500, 300), epochs=3)
    assert {sizes(epoch, position) for epoch in range(1, 5) for position in (0, 8)} == {(500, 300)}
    assert sizes.largest == (500, 300)


# EfficientNetV2's stages: 128 + (384 - 128) (k + 1) / 4 = 192, 256, 320, 384, and for 300 pixels
# 171, 214, 257, 300, here 160, 224, 256 and the full size.
@pytest.mark.parametrize(
    ("side", "expected"),
    [(384, [192, 256, 320, 384]), (300, [160, 224, 256, 300]), (512, [224, 320, 416, 512])],
)
def test_images_grow_as_in_efficientnet_v2(side: int, expected: list[int]) -> None:
    assert stages((side, side), 4, 8) == [(s, s) for s in expected for _ in range(2)]


def test_stages_share_the_epochs_and_the_last_has_the_full_size() -> None:
    for epochs in (5, 7, 300):
        for num_stages in range(1, 6):
            sizes = stages((640, 640), num_stages, epochs)
            assert sizes == sorted(sizes)
            assert sizes[-1] == (640, 640)
            lengths = [sizes.count(size) for size in dict.fromkeys(sizes)]
            assert len(lengths) == num_stages
            assert max(lengths) - min(lengths) <= 1


def test_epochs_after_the_last_stage_have_the_full_size() -> None:
    assert ImageSizes((512, 512), epochs=4, stages=4)(9, 8) == (512, 512)


def test_both_sides_grow_alike_and_small_images_do_not_shrink_below_64() -> None:
    assert stages((256, 512), 4, 4) == [(128, 224), (160, 320), (224, 416), (256, 512)]
    assert stages((64, 96), 2, 2) == [(64, 96), (64, 96)]


def test_factors_reach_the_whole_range_in_multiples_of_32() -> None:
    sizes = ImageSizes((512, 256), epochs=1, multi_scale=(0.5, 1.5), seed=1)
    drawn = {sizes(1, position) for position in range(1, 500)}
    assert {height for height, _ in drawn} == set(range(256, 769, 32))
    assert all(height % 32 == width % 32 == 0 for height, width in drawn)
    assert all(abs(height / 512 - width / 256) <= 16 / 512 + 16 / 256 for height, width in drawn)
    assert sizes.largest == (768, 384)
    assert min(ImageSizes((96, 96), epochs=1, multi_scale=(0.1, 0.2))(1, 5)) == 64


def test_a_factor_depends_on_seed_epoch_and_position_alone() -> None:
    def draw(seed: int, epoch: int, position: int) -> tuple[int, int]:
        return ImageSizes((1024, 1024), epochs=9, multi_scale=(0.1, 2.0), seed=seed)(
            epoch, position
        )

    first = draw(0, 2, 8)
    torch.manual_seed(3)
    assert first == draw(0, 2, 8)
    others = {draw(seed, epoch, k) for seed in (0, 1) for epoch in (2, 3) for k in (0, 8, 16)}
    assert len(others) > 8


@pytest.mark.parametrize("plan", [{"stages": 4}, {"multi_scale": (0.5, 1.4)}])
def test_the_first_step_of_a_run_has_the_largest_size(plan: dict[str, object]) -> None:
    sizes = ImageSizes((384, 512), epochs=8, **plan)  # type: ignore[arg-type]
    assert sizes(1, 0) == sizes.largest
    later = [sizes(epoch, k) for epoch in range(1, 10) for k in range(0, 80, 8)][1:]
    assert all(h <= sizes.largest[0] and w <= sizes.largest[1] for h, w in later)
    assert sizes(2, 0) != sizes.largest


def test_all_ranks_draw_the_same_sizes_and_go_on_with_them() -> None:
    sizes = ImageSizes((512, 512), epochs=2, multi_scale=(0.5, 1.5))

    def of_steps(world_size: int, rank: int, start: int = 0) -> list[tuple[int, int] | None]:
        sampler = TrainSampler(96, 8 // world_size, rank, world_size, sizes=sizes)
        sampler.set_position(2, start)
        return [batch[0].size for batch in sampler]

    alone = of_steps(1, 0)
    assert len(set(alone)) > 4
    assert alone == of_steps(2, 1) == of_steps(4, 3)
    assert alone[5:] == of_steps(2, 0, start=40)


def test_a_plan_that_cannot_work_is_refused() -> None:
    for wrong in ((0.0, 1.0), (1.5, 0.5), (0.5, float("inf"))):
        with pytest.raises(UsageError, match="multi_scale must be two factors, above 0 and rising"):
            ImageSizes((512, 512), epochs=1, multi_scale=wrong)
    for number in (0, 4):
        with pytest.raises(UsageError, match="progressive must be from 1 to the 3 epochs, got"):
            ImageSizes((512, 512), epochs=3, stages=number)
    with pytest.raises(UsageError, match="cannot be combined"):
        ImageSizes((512, 512), epochs=3, stages=2, multi_scale=(0.5, 1.0))
