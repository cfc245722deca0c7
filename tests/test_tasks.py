"""The table of tasks: verdicts, what rows keep, and where targeted attacks lead to."""

import jax.numpy as jnp
import numpy as np
import pytest

from advjax import criteria, metrics, tasks

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


def test_an_image_is_right_where_it_is_not_broken_and_finite():
    task = tasks.get_task("segmentation")
    mask = jnp.zeros((4, 4), jnp.int32).at[:2].set(1)
    good = jnp.stack([1.0 - mask, 1.0 * mask], -1)
    assert task.right(good, mask)
    assert not task.criterion(good, mask)
    assert not task.right(-good, mask)
    assert task.criterion(-good, mask)
    assert not task.right(good.at[0, 0, 0].set(jnp.nan), mask)


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_what_an_attack_may_name_is_about_one_example(name):
    task = tasks.get_task(name)
    output, target = {
        "single": (jnp.array([1.0, 0.5, -2.0, 0.1]), jnp.int32(0)),
        "multi": (jnp.array([1.0, -0.5, 2.0, -0.1, 3.0, 1.0]), jnp.array([1, 0, 1, 0, 1, 1])),
        "segmentation": (jnp.ones((4, 4, 2)).at[..., 0].set(2.0), jnp.zeros((4, 4), jnp.int32)),
    }[name]
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
