"""Attacks on detectors: what they ascend, which proposals they pull, and their special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, boxes, criteria, losses, threat
from tests.attacks.test_dense import KEY, MASKS, X, objective, run

RNG = np.random.default_rng(5)


def detector(x):
    """Maps of stride 4 from the means of blocks."""
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4)) - 0.5
    heads = blocks @ jnp.asarray(HEADS, x.dtype)
    return {
        "heatmap": 8 * heads[..., :2] - 1,
        "size": 3 + heads[..., 2:4],
        "offset": 0.5 + heads[..., 4:],
    }


HEADS = RNG.normal(size=(2, 6))
SCANS = jnp.asarray(RNG.uniform(0.2, 0.8, (2, 16, 20, 2)), jnp.float32)
# what the detector finds there, with a box of padding
FOUND = jax.jit(jax.vmap(lambda o: boxes.as_targets(boxes.decode(o, num=3), score=0.3)))(
    detector(SCANS)
)


@jax.jit
def judge(x, target):
    """Loss and success by the default criterion."""
    output = detector(x)
    loss = jax.vmap(losses.centernet_loss)(output, target)
    return loss, jax.vmap(criteria.default)(output, target)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["pgd", "smia", "dag", "segpgd"])
def test_detectors_are_attacked_too(name):
    target = jnp.concatenate([FOUND, jnp.full((2, 1, 5), -1.0)], 1)
    assert (target[..., 0] >= 0).any(1).all()
    aim = objective(fn=detector, loss=losses.centernet_loss)
    attack = attacks.ATTACKS[name](aim, threat.linf(), num_steps=10)
    result = jax.jit(lambda x, y: attacks.run(attack, KEY, x, y, 0.05, stop="budget"))(
        SCANS, target
    )
    clean, missed_clean = judge(SCANS, target)
    # DAG pulls cells to the next class, which need not raise the loss of every image
    assert (result.loss >= clean).all()
    assert (result.loss > clean).any() if name == "dag" else (result.loss > clean).all()
    assert not missed_clean.any()
    loss, missed = judge(result.x_adv, target)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    np.testing.assert_array_equal(result.success, missed)


def test_dag_pulls_the_proposals_of_a_detector_to_the_next_class():
    aim = objective(fn=detector, loss=losses.centernet_loss)
    attack = attacks.dag(aim, threat.linf(), num_steps=1, keep="last")
    result = run(attack, FOUND, 1.0, SCANS)
    logits, labels = jax.jit(jax.vmap(losses.detection_pixels))(detector(SCANS), FOUND)
    # two classes and "no object": those that are not at the next one yet
    active = (labels != losses.IGNORE) & (jnp.argmax(logits, -1) != (labels + 1) % 3)
    assert active.any((1, 2)).all()
    assert (~active).any((1, 2)).all()
    moved = jnp.abs(result.x_adv - SCANS).max(-1) > 0
    # a block of pixels moves where its cell is active, and nowhere else
    np.testing.assert_array_equal(moved, jnp.repeat(jnp.repeat(active, 4, 1), 4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mask", "boxes"])
def test_smia_of_one_step_is_fgsm_and_without_weight_bim(task):
    if task == "mask":
        aim, x, target = objective(), X, jnp.asarray(MASKS)
    else:
        aim, x, target = objective(fn=detector, loss=losses.centernet_loss), SCANS, FOUND
    ball = threat.linf()

    def points(build, weight=0.0):
        @jax.jit
        def call(x, weight):
            return attacks.run(build(weight), KEY, x, target, 0.03, stop="budget").x_adv

        return [call(x, w) for w in ([weight] if np.ndim(weight) == 0 else weight)]

    (one,) = points(lambda a2: attacks.smia(aim, ball, num_steps=1, a2=a2, keep="last"), 5.0)
    (fgsm,) = points(lambda _: attacks.fgsm(aim, ball))
    np.testing.assert_allclose(one, fgsm, atol=1e-6)
    options = {"num_steps": 4, "step_size": 0.3}
    (bim,) = points(lambda _: attacks.bim(aim, ball, **options))
    # softly and hard, the term does something, and without weight nothing
    weight = 2.0 if task == "mask" else 50.0
    for kind in ("soft", "hard"):
        plain, steady = points(
            lambda a2, kind=kind: attacks.smia(aim, ball, a2=a2, target=kind, **options),
            (0.0, weight),
        )
        np.testing.assert_allclose(plain, bim, atol=1e-6)
        assert (steady != bim).any()


def test_a_prediction_is_nearest_to_itself():
    maps = jax.tree.map(lambda leaf: leaf[0], detector(SCANS))
    own = losses.divergence(maps, maps, FOUND[0])
    gradient = jax.grad(losses.divergence)(maps, maps, FOUND[0])
    np.testing.assert_allclose(gradient["heatmap"], 0, atol=1e-6)
    other = maps | {"heatmap": maps["heatmap"] + 1}
    assert losses.divergence(other, maps, FOUND[0]) > own
