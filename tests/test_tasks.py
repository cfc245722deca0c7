"""The table of tasks: verdicts, what rows keep, and where targeted attacks lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import boxes, criteria, metrics, tasks

RNG = np.random.default_rng(4)


def test_rows_of_labels_and_findings_keep_probabilities():
    logits, labels = RNG.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    exp = np.exp(logits)
    kept, sure = tasks.told(tasks.get_task("single"), logits, labels)
    np.testing.assert_allclose(kept, exp / exp.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(sure, kept.max(1), rtol=1e-6)
    findings = (logits > 0).astype(np.int32)
    kept, sure = tasks.told(tasks.get_task("multi"), logits, findings)
    np.testing.assert_allclose(kept, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_allclose(sure, np.maximum(kept, 1 - kept).mean(1), rtol=1e-5)


def test_rows_of_masks_keep_pixels():
    task = tasks.get_task("segmentation")
    logits = RNG.normal(size=(4, 6, 5, 3)).astype(np.float32)
    masks = RNG.integers(0, 3, (4, 6, 5)).astype(np.int32)
    masks[0, :2] = 255
    kept, sure = tasks.told(task, logits, masks)
    counts = metrics.overlap(logits.argmax(-1), masks, 3)
    np.testing.assert_array_equal(kept.reshape(4, 3, 3), counts)
    assert ((sure > 1 / 3) & (sure < 1)).all()
    scores = task.scores(counts.astype(np.float32), masks)
    assert scores["dice"] == pytest.approx(metrics.image_dice(counts).mean())
    assert scores["accuracy"] == pytest.approx((logits.argmax(-1) == masks)[masks != 255].mean())
    np.testing.assert_array_equal(task.label(masks, 3), [[1, 1, 1]] * 4)


def maps(count, classes=3, side=6):
    """Maps of a detector at random, with boxes of about two cells."""
    return {
        "heatmap": jnp.asarray(RNG.normal(-1, 2, (count, side, side, classes)), jnp.float32),
        "size": jnp.asarray(RNG.uniform(1, 4, (count, side, side, 2)), jnp.float32),
        "offset": jnp.asarray(RNG.uniform(0, 1, (count, side, side, 2)), jnp.float32),
    }


def true_boxes(output, count, most=7):
    """Boxes near those that maps propose, some of another class; the last image has none."""
    found = jax.vmap(lambda maps: boxes.decode(maps, num=most))(output)
    kinds = np.where(RNG.uniform(size=(count, most)) < 0.7, found.classes, 0)
    moved = np.asarray(found.boxes) + RNG.normal(0, 1, (count, most, 4))
    made = np.concatenate([kinds[..., None], moved], -1).astype(np.float32)
    made[RNG.uniform(size=(count, most)) < 0.3] = -1
    made[-1] = -1
    return made


@pytest.mark.slow
def test_rows_of_boxes_say_what_the_metrics_say():
    task, count = tasks.get_task("detection"), 12
    output = maps(count)
    true = true_boxes(output, count)
    readouts = np.asarray(jax.jit(jax.vmap(task.readout))(output, true))
    kept, sure = tasks.told(task, output, true)
    np.testing.assert_array_equal(kept, readouts.reshape(count, -1))
    assert ((sure >= 0) & (sure <= 1)).all()
    matched = tasks.split_boxes(kept)
    recall = jax.vmap(criteria.recall)(output, true)
    np.testing.assert_allclose(matched.recall, recall, rtol=1e-6)
    assert matched.recall[-1] == 1
    assert 0.2 < recall.mean() < 0.9
    np.testing.assert_array_equal(matched.true, task.label(true, 3))
    np.testing.assert_array_equal(jax.vmap(task.accuracy)(output, true), recall)

    found = [tuple(part) for part in zip(*jax.vmap(boxes.decode)(output), strict=True)]
    expected = metrics.mean_average_precision(found, true, 3)
    np.testing.assert_allclose(matched.average_precision()[0], expected.values, rtol=1e-9)
    scores = task.scores(readouts, true)
    assert scores["map"] == pytest.approx(expected.mean)
    assert 0.05 < scores["map"] < 0.95
    assert scores["recall"] == pytest.approx(float(recall.mean()))
    # an image that counts twice is there twice
    weights = RNG.integers(0, 3, (2, count))
    for row, precision in zip(weights, matched.average_precision(weights), strict=True):
        often = np.repeat(np.arange(count), row)
        twice = metrics.mean_average_precision([found[i] for i in often], true[often], 3)
        np.testing.assert_allclose(precision, twice.values, rtol=1e-9)


def test_a_detector_that_finds_nothing_or_says_nothing():
    task = tasks.get_task("detection")
    output = jax.tree.map(lambda leaf: leaf[0], maps(1))
    true = jnp.asarray([[0, 0, 0, 9, 9], [-1] * 5], jnp.float32)
    silent = output | {"heatmap": jnp.full((6, 6, 3), -200.0)}
    assert task.criterion(silent, true)
    assert not task.right(silent, true)
    assert task.certainty(silent) == 0
    assert task.right(silent, true.at[:, 0].set(-1))
    broken = silent | {"size": silent["size"].at[0, 0, 0].set(jnp.nan)}
    assert not task.criterion(broken, true)
    assert not task.right(broken, true.at[:, 0].set(-1))
    nothing = np.asarray(task.readout(silent, true))[None]
    assert task.scores(nothing, np.asarray(true)[None]) == {"map": 0.0, "recall": 0.0}
    with pytest.raises(ValueError, match="attacks on detection lead away only"):
        tasks.goal(task, "erase", ("a", "b", "c"))


def test_an_image_is_right_where_it_is_not_broken_and_finite():
    task = tasks.get_task("segmentation")
    mask = jnp.zeros((4, 4), jnp.int32).at[:2].set(1)
    good = jnp.stack([1.0 - mask, 1.0 * mask], -1)
    assert task.right(good, mask)
    assert not task.criterion(good, mask)
    assert not task.right(-good, mask)
    assert task.criterion(-good, mask)
    assert not task.right(good.at[0, 0, 0].set(jnp.nan), mask)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_what_an_attack_may_name_is_about_one_example(name):
    task = tasks.get_task(name)
    output, target = {
        "single": (jnp.array([1.0, 0.5, -2.0, 0.1]), jnp.int32(0)),
        "multi": (jnp.array([1.0, -0.5, 2.0, -0.1, 3.0, 1.0]), jnp.array([1, 0, 1, 0, 1, 1])),
        "segmentation": (jnp.ones((4, 4, 2)).at[..., 0].set(2.0), jnp.zeros((4, 4), jnp.int32)),
        "detection": (
            {"heatmap": jnp.full((4, 4, 2), -5.0).at[1, 2, 1].set(3.0),
             "size": jnp.full((4, 4, 2), 2.0), "offset": jnp.zeros((4, 4, 2))},
            jnp.asarray([[1, 0, 4, 8, 12], [-1] * 5], jnp.float32),
        ),
    }[name]  # fmt: skip
    for loss in (task.loss, *task.losses.values()):
        assert loss(output, target).shape == ()
        assert jnp.isfinite(loss(output, target))
    for criterion in (task.criterion, *task.criteria.values()):
        assert not criterion(output, target)
    assert task.accuracy(output, target) == 1
    assert task.right(output, target)


def test_goals():
    names = ("nodule", "mass", "edema")
    labels = jnp.array([1, 0, -1])
    multi = tasks.get_task("multi")
    np.testing.assert_array_equal(tasks.goal(multi, "hide-nodule", names)(labels), [0, -1, -1])
    np.testing.assert_array_equal(tasks.goal(multi, "fabricate-mass", names)(labels), [-1, 1, -1])
    # what is not there cannot be hidden, and what is unknown is no one's goal
    for text in ("hide-mass", "hide-edema", "fabricate-nodule", "fabricate-edema"):
        wanted = tasks.goal(multi, text, names)(labels)
        np.testing.assert_array_equal(wanted, [-1, -1, -1])
        assert not criteria.targeted_default(jnp.array([-9.0, 9.0, 9.0]), wanted)
    assert tasks.goal(tasks.get_task("single"), "class-edema", names)(jnp.int32(0)) == 2
    mask = jnp.array([[0, 1], [255, 2]])
    erased = tasks.goal(tasks.get_task("segmentation"), "erase", names)(mask)
    np.testing.assert_array_equal(erased, [[0, 0], [255, 0]])


@pytest.mark.parametrize(
    ("task", "text", "words"),
    [
        ("multi", "hide-lung", "NAME of nodule, mass"),
        ("multi", "class-mass", "use hide-NAME or fabricate-NAME"),
        ("single", "erase", "use class-NAME"),
        ("segmentation", "hide-mass", "use erase"),
    ],
)
def test_goals_that_are_none(task, text, words):
    with pytest.raises(ValueError, match=words):
        tasks.goal(tasks.get_task(task), text, ("nodule", "mass"))
    with pytest.raises(ValueError, match="unknown 'boxes'"):
        tasks.get_task("boxes")
