"""Average precision of boxes against cases computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import boxes, criteria, losses, metrics

NONE = [-1, 0, 0, 0, 0]


def test_box_iou():
    a = np.array([[0, 0, 2, 2], [1, 1, 1, 1]])
    b = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 1, 1]])
    expected = [[1, 1 / 7, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(metrics.box_iou(a, b), expected)
    np.testing.assert_allclose(boxes.iou(jnp.asarray(a, float), jnp.asarray(b, float)), expected)
    assert metrics.box_iou(np.zeros((0, 4)), b).shape == (0, 4)


def test_average_precision_by_hand():
    # precision 1, 1/2, 2/3, 1/2, 3/5 at recall 1/4, 1/4, 1/2, 1/2, 3/4
    scores, hits = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 1]
    expected = 0.25 * 1 + 0.25 * 2 / 3 + 0.25 * 3 / 5
    assert metrics.average_precision(scores, hits, 4) == pytest.approx(expected)
    order = [3, 0, 4, 2, 1]
    shuffled = metrics.average_precision(np.array(scores)[order], np.array(hits)[order], 4)
    assert shuffled == pytest.approx(expected)
    # the envelope: a late rise of precision counts for the recalls before it
    assert metrics.average_precision([3, 2, 1], [0, 1, 1], 2) == pytest.approx(2 / 3)
    # of one score: one point, whatever the order
    for hits in ([1, 0], [0, 1]):
        assert metrics.average_precision([0.5, 0.5], hits, 1) == pytest.approx(0.5)
    assert metrics.average_precision([], [], 3) == 0
    assert np.isnan(metrics.average_precision([0.5], [0], 0))


def test_weighted_average_precision_repeats_images():
    rng = np.random.default_rng(3)
    image, scores = rng.integers(0, 6, 40), rng.integers(1, 9, 40) / 10
    hits, true = rng.uniform(size=40) < 0.5, rng.integers(5, 9, 6)
    weights = np.vstack([np.ones(6), rng.integers(0, 4, (5, 6)), np.zeros(6)])
    found = metrics.weighted_average_precision(scores, hits, image, true, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        often = np.repeat(np.arange(40), row[image])
        expected = metrics.average_precision(scores[often], hits[often], int(row @ true))
        assert value == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found[-1])
    none = metrics.weighted_average_precision([], [], [], true, weights)
    np.testing.assert_array_equal(none[:-1], 0)


BOX = [0, 0, 10, 10]
HALF = [0, 0, 10, 6]  # IoU 0.6 with BOX
TRUE = [
    [[0, *BOX], [0, 20, 20, 30, 30], NONE],
    [[1, *BOX], NONE, NONE],
    [NONE, NONE, NONE],
]
FOUND = [
    # both find the first box, which only one of them may; the second box is missed
    ([HALF, BOX, BOX], [0.9, 0.8, 0.7], [0, 0, 1]),
    ([BOX, [50, 50, 60, 60]], [0.6, 0.0], [1, 0]),
    ([BOX], [0.95], [0]),
]


def test_map_by_hand():
    found = metrics.mean_average_precision(FOUND, TRUE, 3, names=("a", "b", "c"))
    # a: .95 false, .9 hit, .8 taken already: recall 1/2 at precision 1/2
    # b: .7 false, .6 hit: recall 1 at precision 1/2
    np.testing.assert_allclose(found.values, [0.25, 0.5, np.nan])
    assert found.mean == pytest.approx(0.375)
    assert found.undefined == ("c",)
    # at .7 the half box is false and the whole one hits: recall 1/2 at precision 1/3
    both = metrics.mean_average_precision(FOUND, TRUE, 2, iou=(0.5, 0.7))
    np.testing.assert_allclose(both.values, [(1 / 4 + 1 / 6) / 2, 0.5])
    perfect = [(np.array(t)[:, 1:], [1.0] * 3, np.maximum(np.array(t)[:, 0], 0)) for t in TRUE]
    perfect = [(b, np.array(s) * (np.array(t)[:, 0] >= 0), c)
               for (b, s, c), t in zip(perfect, TRUE, strict=True)]  # fmt: skip
    assert metrics.mean_average_precision(perfect, TRUE, 2).mean == 1


def test_map_refuses_what_it_cannot_read():
    for found, true, options, words in (
        (FOUND, TRUE[:1], {}, "3 images"), ([], [], {}, "0 images"),
        (FOUND, TRUE, {"iou": ()}, "iou"), (FOUND, TRUE, {"iou": (0.0,)}, "iou"),
        (FOUND, TRUE, {"num_classes": 1}, r"0\.\.0"),
        ([([BOX], [np.nan], [0])], TRUE[:1], {}, "finite"),
        ([([BOX], [0.5, 0.4], [0])], TRUE[:1], {}, "shape|needs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            metrics.mean_average_precision(found, true, **{"num_classes": 2} | options)


def perfect_maps(target, shape, num_classes):
    """Maps that say exactly what the target says, by loops; stride 4."""
    heat = np.full((*shape, num_classes), -20.0)
    size, offset = np.ones((*shape, 2)), np.zeros((*shape, 2))
    for k, y0, x0, y1, x1 in target:
        if k >= 0:
            y, x = (y0 + y1) / 8, (x0 + x1) / 8
            at = int(y), int(x)
            heat[(*at, int(k))] = 20.0
            size[at] = (y1 - y0) / 4, (x1 - x0) / 4
            offset[at] = y - at[0], x - at[1]
    return {"heatmap": jnp.asarray(heat, jnp.float32), "size": jnp.asarray(size, jnp.float32),
            "offset": jnp.asarray(offset, jnp.float32)}  # fmt: skip


TARGET = np.array([[1, 2, 3, 13, 10], NONE, [0, 10, 14, 22, 31], [1, 3, 20, 9, 30]], np.float32)


def test_decoding_returns_the_boxes_that_the_loss_asks_for():
    maps = perfect_maps(TARGET, (6, 8), 2)
    found = boxes.decode(maps, num=5)
    np.testing.assert_allclose(found.scores, [1, 1, 1, 0, 0], atol=1e-6)
    order = np.lexsort((np.asarray(found.boxes)[:3, 0],))
    wanted = TARGET[TARGET[:, 0] >= 0]
    wanted = wanted[np.argsort(wanted[:, 1])]
    np.testing.assert_allclose(found.boxes[:3][order], wanted[:, 1:], atol=1e-5)
    np.testing.assert_array_equal(found.classes[:3][order], wanted[:, 0])
    again = np.asarray(boxes.as_targets(found, score=0.5))
    np.testing.assert_array_equal(again[:, 0] >= 0, [1, 1, 1, 0, 0])
    assert metrics.mean_average_precision([found], [TARGET], 2).mean == 1
    assert criteria.recall(maps, jnp.asarray(TARGET)) == 1
    with pytest.raises(ValueError, match="heatmap"):
        boxes.decode(maps["heatmap"])


def test_recall_and_the_criterion():
    maps = perfect_maps(TARGET[:3], (6, 8), 2)  # the last box is missed
    target = jnp.asarray(TARGET)
    np.testing.assert_allclose(criteria.recall(maps, target), 2 / 3)
    assert criteria.detections_missed(0.67)(maps, target)
    assert not criteria.detections_missed(2 / 3)(maps, target)
    assert criteria.recall(maps, target.at[:, 0].set(-1)) == 1
    # the right place, another class
    swapped = maps | {"heatmap": maps["heatmap"][..., ::-1]}
    assert criteria.recall(swapped, target) == 0
    assert criteria.detections_missed() == criteria.detections_missed(0.5)
    with pytest.raises(ValueError, match="share"):
        criteria.detections_missed(0)


def naive_centernet(maps, target):
    """Focal loss, size and offset errors with loops."""
    heat, size, offset = (np.asarray(maps[n], np.float64) for n in ("heatmap", "size", "offset"))
    wanted, centres, errors, number = np.zeros(heat.shape), set(), 0.0, 0
    for k, y0, x0, y1, x1 in target:
        if k < 0:
            continue
        number += 1
        y, x, h, w = (y0 + y1) / 8, (x0 + x1) / 8, (y1 - y0) / 4, (x1 - x0) / 4
        at = min(int(y), heat.shape[0] - 1), min(int(x), heat.shape[1] - 1)
        r = np.roots([1, -(h + w), h * w * (1 - 0.7) / (1 + 0.7)]).min()
        # moved by r along both axes, the box still has an IoU of 0.7
        np.testing.assert_allclose(metrics.box_iou([[0, 0, h, w]], [[r, r, h + r, w + r]]), 0.7)
        for i in range(heat.shape[0]):
            for j in range(heat.shape[1]):
                away = (i - at[0]) ** 2 + (j - at[1]) ** 2
                bump = np.exp(-away / (2 * ((2 * r + 1) / 6) ** 2))
                wanted[i, j, int(k)] = max(wanted[i, j, int(k)], bump)
        centres.add((*at, int(k)))
        errors += 0.1 * np.abs(size[at] - (h, w)).sum()
        errors += np.abs(offset[at] - (y - at[0], x - at[1])).sum()
    p, total = 1 / (1 + np.exp(-heat)), errors
    for place in np.ndindex(heat.shape):
        if place in centres:
            total -= (1 - p[place]) ** 2 * np.log(p[place])
        else:
            total -= (1 - wanted[place]) ** 4 * p[place] ** 2 * np.log(1 - p[place])
    return total / max(number, 1)


def test_centernet_loss():
    rng = np.random.default_rng(0)
    maps = {"heatmap": rng.normal(size=(6, 8, 2)), "size": rng.uniform(1, 5, (6, 8, 2)),
            "offset": rng.normal(size=(6, 8, 2))}  # fmt: skip
    loss = jax.jit(losses.centernet_loss)
    for target in (TARGET, TARGET[1:2], np.array([[0, 20, 28, 24, 32]] * 2, np.float32)):
        np.testing.assert_allclose(loss(maps, target), naive_centernet(maps, target), rtol=1e-5)
    # an output that says what is true has a loss of almost nothing
    wide = perfect_maps(TARGET, (6, 8), 2)
    assert loss(wide, TARGET) < 1e-5
    as_tuple = boxes.Maps(**{k: jnp.asarray(v) for k, v in maps.items()})
    np.testing.assert_allclose(loss(as_tuple, TARGET), loss(maps, TARGET), rtol=1e-6)
    wrong = TARGET.copy()
    wrong[0, 0] = 2
    assert np.isnan(loss(maps, wrong))


def test_proposals_of_a_detector():
    maps = perfect_maps(TARGET, (6, 8), 2)
    logits, labels = losses.detection_pixels(maps, jnp.asarray(TARGET))
    assert logits.shape == (6, 8, 3)
    np.testing.assert_allclose(logits[..., 2], np.log(0.1 / 0.9), rtol=1e-6)
    expected = np.full((6, 8), losses.IGNORE)
    expected[1, 1], expected[4, 5], expected[1, 6] = 1, 0, 1
    np.testing.assert_array_equal(labels, expected)
    # below the score, or away from a true box, a cell does not count
    silent = maps | {"heatmap": maps["heatmap"] - 23}
    assert (losses.detection_pixels(silent, jnp.asarray(TARGET))[1] == losses.IGNORE).all()
