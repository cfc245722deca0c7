"""One contract, every attack, ball, loss, criterion and direction."""

import functools
import inspect

import jax.numpy as jnp
import optax
import pytest

from advjax import attacks, criteria, losses, testing, threat

# norms that an attack knows, where it does not know all
KNOWS = {"cw_l2": ("l2",), "ddn": ("l2",), "deepfool": ("l2", "linf"),
         "hopskipjump": ("l2", "linf"), "square": ("l2", "linf")}  # fmt: skip
# what an attack cannot do without
GIVEN = {"gap": {"generate": lambda x: jnp.tanh(5 * jnp.sin(9 * x))}}
STEPPED = [
    n for n, f in attacks.ATTACKS.items() if "step_size_abs" in inspect.signature(f).parameters
]
# a step along a gradient needs a direction of steepest ascent, which l0 has not
NORMS = sorted(set(threat.BALLS) - {"l0"})


@pytest.mark.sample(6)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_attack(name, norm):
    factory = functools.partial(attacks.ATTACKS[name], **GIVEN.get(name, {}))
    if norm not in KNOWS.get(name, NORMS):
        objective = attacks.from_logits(lambda x: x, loss=losses.cross_entropy)
        with pytest.raises(ValueError, match=norm):
            factory(objective, threat.by_name(norm))
        return
    if "num_steps" in inspect.signature(factory).parameters:
        factory = functools.partial(factory, num_steps=6)
    testing.check_attack(
        factory, attacks.run, attacks.from_logits, losses.cross_entropy, threat.by_name(norm)
    )


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_signatures_are_uniform(name):
    parameters = list(inspect.signature(attacks.ATTACKS[name]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["objective", "ball"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    named = {p.name for p in parameters}
    if name not in STEPPED:
        # they return their nearest point, or search with moves of their own
        assert not {"step_size", "keep"} & named
        return
    assert {"step_size", "step_size_abs"} <= named
    if name == "simba":
        # what is best is what it goes on from
        assert "keep" not in named
        return
    keep = inspect.signature(attacks.ATTACKS[name]).parameters["keep"].default
    assert keep == ("best" if "num_steps" in named else "last")


MASK = jnp.zeros((4, 3, 2), bool).at[1:3, :2].set(True)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "ball",
    [
        threat.linf(),
        threat.l2(),
        threat.l1(),
        threat.l0(),
        threat.linf(bounds=(-1.0, 2.0)),
        threat.l2(bounds=(-1.0, 2.0)),
        threat.l1(bounds=(-1.0, 2.0)),
        threat.l0(bounds=(-1.0, 2.0)),
        threat.normalised("linf", (0.25, 0.5)),
        threat.normalised("l2", (0.25, 0.5)),
        threat.masked(threat.linf(), MASK),
        threat.masked(threat.l2(), MASK[..., :1]),
        threat.masked(threat.l1(), MASK),
        threat.masked(threat.l0(), MASK),
        threat.masked(threat.l1(), jnp.stack([MASK, ~MASK, MASK, ~MASK, MASK])),
        threat.masked(threat.l2(), jnp.stack([MASK, ~MASK, MASK, ~MASK, MASK])),
    ],
    ids=lambda b: f"{b.name}{b.bounds}",
)
def test_ball(ball):
    testing.check_ball(ball)


LABELS = jnp.asarray([1, 0, -1, 1])
LOGITS = jnp.asarray([0.3, -1.2, 2.0, 0.7])


# 3 x 4 pixels of 4 classes; one pixel is ignored
PIXELS = jnp.stack([LOGITS, -LOGITS, jnp.roll(LOGITS, 1)])[:, None] + jnp.arange(4.0)[:, None] / 9
MASK_OF_CLASSES = jnp.asarray([[1, 0, 2, 255], [3, 3, 1, 1], [2, 0, 0, 1]])


MAPS = {"heatmap": PIXELS, "size": 2 + jnp.abs(PIXELS[..., :2]), "offset": PIXELS[..., 2:] / 9}
BOXES = jnp.asarray([[2.0, 0, 0, 8, 9], [-1, 0, 0, 0, 0], [0, 3, 5, 11, 16]])
DENSE = ("class_pull", "cosine_cross_entropy", "dice_loss", "mask_pull", "pixel_cross_entropy",
         "staged_cross_entropy")  # fmt: skip


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_loss(name):
    if name in DENSE:
        target = MASK_OF_CLASSES
        if name == "staged_cross_entropy":
            target = (target, jnp.asarray(0.25))
        testing.check_loss(losses.LOSSES[name], PIXELS, target)
        return
    if name == "centernet_loss":
        testing.check_loss(losses.LOSSES[name], MAPS, BOXES)
        return
    others = {
        "binary_cross_entropy": LABELS,
        "binary_kl": LOGITS[::-1],
        "label_margin": LABELS,
        "kl": LOGITS[::-1],
        "dlr_targeted": (jnp.asarray(2), jnp.asarray(0)),
    }
    target = others.get(name, jnp.asarray(2))
    testing.check_loss(losses.LOSSES[name], LOGITS, target)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", sorted(criteria.CRITERIA))
def test_criterion(name):
    if name in ("dice_below", "mask_reached", "pixel_accuracy_below", "pixels_reached"):
        testing.check_criterion(criteria.CRITERIA[name], PIXELS, MASK_OF_CLASSES)
        return
    if name == "detections_missed":
        # one of two boxes is found: not less than half of them
        one = {"heatmap": jnp.full((3, 4, 4), -9.0).at[1, 1, 2].set(9.0),
               "size": jnp.asarray([2.0, 9 / 4]) + jnp.zeros((3, 4, 1)),
               "offset": jnp.asarray([0.0, 1 / 8]) + jnp.zeros((3, 4, 1))}  # fmt: skip
        assert criteria.detections_missed(0.51)(one, BOXES)
        testing.check_criterion(criteria.CRITERIA[name], MAPS, BOXES, tie=one)
        return
    multi = name in ("all_flipped", "any_flipped", "flipped", "labels_reached")
    testing.check_criterion(criteria.CRITERIA[name], LOGITS, LABELS if multi else jnp.asarray(2))


DIRECTIONS = {
    "steepest": attacks.steepest(),
    "scale_by_eps": attacks.scale_by_eps(0.3),
    "scale_by_eps schedule": attacks.scale_by_eps(optax.linear_schedule(1.0, 0.1, 5)),
    "scale_by_step_size_abs": attacks.scale_by_step_size_abs(),
    "normalise_by_max_abs": attacks.normalise_by_max_abs(),
    "normalise_by_mean_abs": attacks.normalise_by_mean_abs(),
    "smooth_gradient": attacks.smooth_gradient(5, 1.0),
    "pgd": optax.chain(attacks.steepest(), attacks.scale_by_eps(0.25)),
    "adam": optax.chain(optax.scale_by_adam(), attacks.scale_by_eps(0.25)),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_direction(name, norm):
    testing.check_direction(DIRECTIONS[name], threat.by_name(norm))
