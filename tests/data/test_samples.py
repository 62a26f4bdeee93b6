# SPDX-License-Identifier: Apache-2.0
"""Bad images: what takes their place, how they are counted, and when there are too many."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from effdet import distributed
from effdet.data.coco import CocoDataset
from effdet.data.image_record import ImageRecord, merge
from effdet.data.loader import Loader, build_eval_loader, build_train_loader
from effdet.data.sampler import Key
from effdet.data.samples import DetectionDataset, LeftOut, Remark, Sample
from effdet.data.transforms import EvalTransform, TrainTransform
from effdet.errors import DataError
from tests.data.conftest import annotation
from tests.data.test_loader import assert_same_batches, ids

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
EVAL = EvalTransform((32, 32), *PLAIN)
TRAIN = TrainTransform((32, 32), *PLAIN)
BAD = (3, 7, 8)


@pytest.fixture
def coco(make: Callable[..., CocoDataset], tmp_path: Path) -> CocoDataset:
    """Twelve images with ids 100 to 111; numbers 3, 7 and 8 are bad, each in another way."""
    images = [
        {"id": 100 + k, "file_name": f"{k}.png", "width": 20, "height": 30} for k in range(12)
    ]
    boxes = [annotation(100 + k, 1, [2, 2, 9, 20]) for k in range(12)]
    data = make({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]})
    whole = (tmp_path / "train" / "3.png").read_bytes()
    (tmp_path / "train" / "3.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (21, 30)).save(tmp_path / "train" / "7.png")
    (tmp_path / "train" / "8.png").unlink()
    return data


def train_loader(coco: CocoDataset, num_workers: int = 0, max_bad: float = 0.3) -> Loader:
    return build_train_loader(
        coco, TRAIN, batch_size=2, num_workers=num_workers, seed=4, max_bad_images=max_bad
    )


def sample(coco: CocoDataset, epoch: int, index: int, seed: int = 0) -> Sample:
    found = DetectionDataset(coco, TRAIN, seed)[Key(epoch, index)]
    assert isinstance(found, Sample)
    return found


# Substitutes.
def test_a_substitute_depends_on_seed_epoch_and_index_alone(coco: CocoDataset) -> None:
    def chosen(seed: int) -> list[int]:
        return [sample(coco, epoch, 3, seed).target.image_id for epoch in range(12)]

    first = chosen(0)
    assert first == chosen(0)
    assert first != chosen(1)
    assert len(set(first)) > 3
    assert not set(first) & {100 + bad for bad in BAD}


def test_a_substitute_is_augmented_as_the_image_would_have_been(coco: CocoDataset) -> None:
    replaced = sample(coco, 1, 3)
    assert replaced.image.equal(sample(coco, 1, 3).image)
    assert len(replaced.target.boxes) <= 1
    assert replaced.remarks[0].image == 3


def test_what_is_wrong_with_each_is_remarked(coco: CocoDataset) -> None:
    texts = {bad: sample(coco, 1, bad).remarks[0].text for bad in BAD}
    assert all(str(coco.path(bad)) in text for bad, text in texts.items())
    assert "found a damaged PNG" in texts[3]
    assert "21 x 30 (width x height) but the annotation file records 20 x 30" in texts[7]
    assert "no such image file" in texts[8]


def test_a_sound_image_has_no_remark(coco: CocoDataset) -> None:
    assert sample(coco, 1, 0).remarks == ()


def test_an_animation_is_remarked_and_used(coco: CocoDataset) -> None:
    frames = [Image.new("L", (20, 30), gray) for gray in (0, 90)]
    frames[0].save(coco.path(0), "GIF", save_all=True, append_images=frames[1:])
    (remark,) = sample(coco, 1, 0).remarks
    assert remark == (0, f"{coco.path(0)}: the first image of several in this GIF was taken", False)


def test_where_no_image_is_sound_the_first_is_named(coco: CocoDataset) -> None:
    for index in range(12):
        coco.path(index).write_bytes(b"")
    with pytest.raises(DataError, match=r"5\.png: the file is empty; no other image can take"):
        sample(coco, 1, 5)


def test_a_set_of_one_bad_image_has_no_substitute(make: Callable[..., CocoDataset]) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}]
    coco = make({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    coco.path(0).write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: the file is empty; no other .*: there is none"):
        sample(coco, 1, 0)


# Passes.
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_substitute_and_no_count(coco: CocoDataset, num_workers: int) -> None:
    alone, helped = train_loader(coco), train_loader(coco, num_workers)
    for epoch in (1, 2):
        for loader in (alone, helped):
            loader.set_position(epoch)
        batches = list(alone)
        assert [len(batch) for batch in batches] == [2] * 6
        assert_same_batches(batches, list(helped))
        assert alone.record.bad == helped.record.bad
    assert set(alone.record.bad) == set(BAD)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pass_that_goes_on_has_the_same_substitutes(coco: CocoDataset, num_workers: int) -> None:
    whole, rest = train_loader(coco), train_loader(coco, num_workers)
    whole.set_position(1)
    rest.set_position(1, 6)
    assert_same_batches(list(whole)[3:], list(rest))


def test_ranks_share_the_samples_of_one_process(coco: CocoDataset) -> None:
    ranks = [
        build_train_loader(
            coco, TRAIN, batch_size=2, seed=4, max_bad_images=0.3, rank=rank, world_size=2
        )
        for rank in (0, 1)
    ]
    alone = build_train_loader(coco, TRAIN, batch_size=4, seed=4, max_bad_images=0.3)
    for loader in (*ranks, alone):
        loader.set_position(1)
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert ids(whole) == [image_id for part in parts for image_id in ids(part)]


def test_a_bad_image_counts_once_in_all_epochs(coco: CocoDataset) -> None:
    loader = train_loader(coco, max_bad=0.25)
    for epoch in range(1, 6):
        loader.set_position(epoch)
        assert len(list(loader)) == 6
    assert len(loader.record.bad) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_images_are_an_error_that_names_them(
    coco: CocoDataset, num_workers: int
) -> None:
    loader = train_loader(coco, num_workers, max_bad=0.24)
    loader.set_position(1)
    with pytest.raises(DataError) as caught:
        list(loader)
    text = str(caught.value)
    assert text.startswith(
        "3 of 12 images cannot be used, more than --max-bad-images 0.24 allows: "
    )
    assert all(str(coco.path(bad)) in text for bad in BAD)
    assert text.isprintable()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_leaves_bad_images_out(coco: CocoDataset, num_workers: int) -> None:
    loader = build_eval_loader(
        coco, EVAL, batch_size=2, num_workers=num_workers, max_bad_images=0.25
    )
    for _ in range(2):
        seen = [ids(batch) for batch in loader]
        # 6 and 7, and 8 and 9, were a batch each.
        assert seen == [[100, 101], [102], [104, 105], [106], [109], [110, 111]]
    assert set(loader.record.bad) == set(BAD)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_of_bad_images_alone_is_not_given(coco: CocoDataset, num_workers: int) -> None:
    loader = build_eval_loader(
        coco, EVAL, batch_size=1, num_workers=num_workers, max_bad_images=0.5
    )
    assert [ids(batch)[0] - 100 for batch in loader] == [0, 1, 2, 4, 5, 6, 9, 10, 11]
    assert loader.rounds == 12


def test_by_default_the_first_bad_image_is_an_error(coco: CocoDataset) -> None:
    with pytest.raises(DataError, match=r"3\.png: .*; to go on .* give --max-bad-images"):
        list(build_eval_loader(coco, EVAL, batch_size=2))


def test_an_error_of_ours_is_not_taken_for_a_bad_image(coco: CocoDataset) -> None:
    def transform(*_: object) -> None:
        raise ValueError("a bug")

    loader = build_eval_loader(coco, transform, batch_size=2, max_bad_images=1.0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"0\.png: cannot make a sample of it: ValueError: a bug"):
        list(loader)


def test_a_left_out_image_tells_why(coco: CocoDataset) -> None:
    found = DetectionDataset(coco, EVAL, where_bad="leave out")[Key(0, 8)]
    assert isinstance(found, LeftOut)
    assert found.remarks[0].bad


# The record.
def bad(*indices: int) -> list[Remark]:
    return [Remark(index, f"{index}.png: bad", bad=True) for index in indices]


def test_the_share_is_of_distinct_images_and_exact() -> None:
    record = ImageRecord(100, 0.29)
    record.add(bad(*range(29), *range(29)))
    with pytest.raises(DataError, match=r"^30 of 100 images .*; 19\.png: bad; and 10 more$"):
        record.add(bad(40))


def test_each_is_told_once_and_few_notes() -> None:
    record = ImageRecord(1000, 1.0)
    record.add(bad(5, 2))
    assert record.news() == ["5.png: bad", "2.png: bad"]
    record.add([*bad(2, 9), *(Remark(k, f"{k}.gif: more", bad=False) for k in range(100, 200))])
    assert record.news() == ["9.png: bad", *(f"{k}.gif: more" for k in range(100, 120))]
    assert record.news() == []
    assert (len(record.bad), len(record.notes)) == (3, 100)


def test_what_an_earlier_start_told_is_not_told_again() -> None:
    record = ImageRecord(10, 0.5)
    record.restore({3: "3.png: bad"})
    record.add(bad(3, 4))
    assert record.news() == ["4.png: bad"]
    assert set(record.bad) == {3, 4}


def test_alone_sharing_changes_only_the_order() -> None:
    assert not distributed.is_initialized()
    record = ImageRecord(10, 0.5)
    record.add(bad(6, 1))
    record.share()
    assert list(record.bad) == [1, 6]


def test_of_several_processes_each_image_is_once() -> None:
    merged = merge([{4: "a", 9: "b"}, {}, {1: "c", 4: "a"}])
    assert list(merged.items()) == [(1, "c"), (4, "a"), (9, "b")]
