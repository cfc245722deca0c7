import itertools

import jax
import numpy as np
import pytest

from advjax import data
from tests.data import made


def collect(split, size, **kwargs):
    return list(data.batches(split, size, **kwargs))


def test_an_epoch_has_every_example_once_and_the_last_batch_is_padded():
    split = made.split(np.arange(10) % 3)
    found = collect(split, 4, seed=1, epoch=2, shuffle=True)
    assert [b.image.shape for b in found] == [(4, 6, 6, 1)] * 3 == [(4, 6, 6, 1)] * len(found)
    assert [int(b.valid.sum()) for b in found] == [4, 4, 2]
    ids = np.concatenate([b.id[b.valid] for b in found])
    assert sorted(ids) == list(range(100, 110))
    assert found[-1].id[2:].tolist() == [data.PADDING_ID] * 2
    for batch in found:
        assert batch.image.dtype == np.float32
        assert batch.target.dtype == batch.id.dtype == np.int32
        rows = batch.id[batch.valid] - 100
        np.testing.assert_array_equal(
            batch.image[batch.valid], split.images[rows].astype(np.float32) / 255
        )
        np.testing.assert_array_equal(batch.target[batch.valid], split.targets[rows])


def test_padding_contributes_nothing_to_a_masked_sum():
    split = made.split(np.arange(7) % 2)
    whole = (split.images.astype(np.float32) / 255).sum(axis=(1, 2, 3))
    found = collect(split, 4)
    total = sum(float((b.image.sum(axis=(1, 2, 3)) * b.valid).sum()) for b in found)
    assert total == pytest.approx(whole.sum(), rel=1e-6)


@pytest.mark.parametrize("balanced", [False, True])
def test_resume_is_the_tail(balanced):
    split = made.split(np.arange(23) % 3)
    kwargs = {"seed": 7, "epoch": 3, "shuffle": True, "balanced": balanced}
    full = collect(split, 5, **kwargs)
    for start in range(len(full) + 1):
        tail = collect(split, 5, start=start, **kwargs)
        assert len(tail) == len(full) - start
        for a, b in zip(tail, full[start:], strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_order_depends_on_seed_and_epoch_only():
    split = made.split(np.zeros(40))
    orders = {
        (s, e): tuple(data.epoch_order(split, seed=s, epoch=e, shuffle=True))
        for s, e in itertools.product(range(3), range(3))
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(data.epoch_order(split, seed=1, epoch=2, shuffle=True))
    assert data.epoch_order(split).tolist() == list(range(40))


def test_balanced_sampling_gives_every_class_the_same_number():
    targets = np.array([0] * 80 + [1] * 15 + [3] * 5)
    split = made.split(targets)
    total = np.zeros(4)
    for epoch in range(30):
        rows = data.epoch_order(split, seed=0, epoch=epoch, shuffle=True, balanced=True)
        counts = np.bincount(targets[rows], minlength=4)
        assert len(rows) == 100
        assert set(counts[[0, 1, 3]]) == {33, 34}
        assert counts[2] == 0
        of_each = np.bincount(rows, minlength=100)
        assert of_each[80:95].max() - of_each[80:95].min() <= 1
        total += counts
    # the one that is left over goes to a random class: equal numbers in expectation
    assert np.ptp(total[[0, 1, 3]]) <= 20
    rows = data.epoch_order(split, seed=0, epoch=0, shuffle=True, balanced=True)
    assert len(set(targets[rows[:20]])) == 3


def test_bad_arguments():
    split = made.split(np.arange(5))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        data.batches(split, 0)
    with pytest.raises(ValueError, match=r"start must be in \[0, 2\]"):
        data.batches(split, 4, start=3)
    with pytest.raises(ValueError, match="pass shuffle=True"):
        data.batches(split, 4, balanced=True)
    with pytest.raises(ValueError, match="seed and epoch"):
        data.batches(split, 4, seed=-1, shuffle=True)
    multi = data.Split(split.images, np.ones((5, 3), np.int32), split.ids)
    with pytest.raises(ValueError, match="set balanced=False"):
        data.batches(multi, 4, shuffle=True, balanced=True)
    with pytest.raises(ValueError, match="rows must be 1 to 4"):
        data.make_batch(split, np.arange(5), 4)


def test_float_images_stay_as_they_are_and_select_keeps_rows_together():
    split = made.split(np.arange(6))
    images = np.random.default_rng(0).random((6, 4, 4, 2), np.float32)
    split = data.Split(
        images, split.targets, split.ids, masks=np.zeros((6, 4, 4), np.uint8), names=np.arange(6)
    )
    chosen = split.select(np.array([4, 1]))
    assert len(chosen) == 2
    assert chosen.ids.tolist() == [104, 101]
    assert chosen.names.tolist() == [4, 1]
    assert chosen.groups is None
    np.testing.assert_array_equal(next(data.batches(chosen, 2)).image, images[[4, 1]])
