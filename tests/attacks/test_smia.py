"""SMIA against a naive NumPy rendering of its two definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, losses, threat
from advjax.attacks._directions import gaussian_kernel, smooth
from advjax.attacks._smia import reference_smoothing

KEY = jax.random.key(0)
SHAPE = (6, 5, 3)


@pytest.fixture
def net(x64):
    """A smooth two-layer net in float64 with its images and labels."""
    rng = np.random.default_rng(3)
    w1, w2 = rng.normal(size=(90, 16)) * 0.3, rng.normal(size=(16, 4))

    def fn(x):
        return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ w1) @ w2

    x = jnp.asarray(rng.uniform(0.2, 0.8, size=(4, *SHAPE)))
    return fn, x, jnp.argmax(fn(x), -1)


def gradient(fn, x, y, reference=None, a1=1.0, a2=0.0):
    def value(x):
        logits = fn(x)
        total = a1 * jax.vmap(losses.cross_entropy)(logits, y)
        if reference is not None:
            p = jax.nn.softmax(reference)
            total -= a2 * -(p * jax.nn.log_softmax(logits)).sum(-1)
        return total.sum()

    return jax.grad(value)(x)


def naive_blur(field, kernel):
    """Reflected, separable, depthwise, with loops."""
    half = len(kernel) // 2
    out = np.zeros_like(field)
    height, width, _ = field.shape
    reflect = lambda i, n: -i if i < 0 else 2 * (n - 1) - i if i >= n else i
    for i in range(height):
        for j in range(width):
            for a, ka in enumerate(kernel):
                for b, kb in enumerate(kernel):
                    r, c = reflect(i + a - half, height), reflect(j + b - half, width)
                    out[i, j] += ka * kb * field[r, c]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["perturbation", "last_step"])
def test_clean_mode_step_by_step(net, what):
    fn, x0, y = net
    eps, steps, a1, a2 = 0.03, 5, 0.7, 1.3
    kernel = gaussian_kernel(3, 1.0)
    x, previous = np.asarray(x0), np.asarray(x0)
    for t in range(steps):
        reference = None
        if t > 0:
            origin = np.asarray(x0) if what == "perturbation" else previous
            blurred = np.stack([naive_blur(d, kernel) for d in x - origin])
            reference = fn(jnp.asarray(origin + blurred))
        g = np.asarray(gradient(fn, jnp.asarray(x), y, reference, a1, a2))
        previous = x
        x = np.clip(np.clip(x + eps / 4 * np.sign(g), x0 - eps, x0 + eps), 0, 1)
    attack = attacks.smia(
        attacks.from_logits(fn, loss=losses.cross_entropy), threat.linf(), num_steps=steps,
        step_size=0.25, a1=a1, a2=a2, smooth=what, keep="last",
    )  # fmt: skip
    result = attacks.run(attack, KEY, x0, y, eps, stop="budget")
    np.testing.assert_allclose(result.x_adv, x, atol=1e-9)
    assert attack.spec.cost == (2, 1)
    assert (result.num_grads == steps).all()


def test_reference_mode_step_by_step(net):
    """The authors' loop: full steps, no projection, hard label at the smoothed last sign field."""
    fn, x0, y = net
    eps, steps, a1, a2 = 0.01, 4, 1.0, 0.6
    k = np.exp(-((np.linspace(-1, 1, 3) + 1) ** 2) / 2)
    k = k / k.sum()
    weight = np.stack([np.outer(k, k)] * 3).swapaxes(0, 2)[..., None]  # [out, in, 3, 1]
    x, label = np.asarray(x0), None
    for i in range(steps):

        def value(x, label=label, i=i):
            total = jax.vmap(losses.cross_entropy)(fn(x), y)
            if i > 0:
                total = a1 * total - a2 * jax.vmap(losses.cross_entropy)(fn(x), label)
            return total.sum()

        s = np.sign(jax.grad(value)(jnp.asarray(x)))
        conv = jax.lax.conv_general_dilated(
            jnp.asarray(s), jnp.asarray(weight), (1, 1), ((2, 2), (0, 0)), rhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )  # fmt: skip
        label = jnp.argmax(fn(x + eps * conv), -1)
        x = np.clip(x + eps * s, 0, 1)
    attack = attacks.smia(
        attacks.from_logits(fn, loss=losses.cross_entropy), threat.linf(), num_steps=steps,
        a1=a1, a2=a2, mode="reference", keep="last",
    )  # fmt: skip
    result = attacks.run(attack, KEY, x0, y, eps, stop="budget")
    np.testing.assert_allclose(result.x_adv, x, atol=1e-9)
    assert (result.distance <= steps * eps + 1e-9).all()
    assert (result.distance > eps).any()  # the documented defect: it leaves the ball


def test_reference_smoothing_has_the_known_sums():
    field = np.ones((9, 4, 3))
    inside = np.asarray(reference_smoothing(jnp.asarray(field)))[3:6]
    np.testing.assert_allclose(inside.mean((0, 1)), [1.7223, 1.0446, 0.2331], atol=1e-3)
    with pytest.raises(ValueError, match="gaussian"):
        reference_smoothing(jnp.ones((4, 4, 1)))


def test_gaussian_sums_to_one_and_keeps_constants():
    kernel = gaussian_kernel(3, 1.0)
    np.testing.assert_allclose(kernel, [0.274, 0.452, 0.274], atol=1e-3)
    flat = smooth(jnp.full((5, 4, 2), 0.7), kernel, mode="reflect")
    np.testing.assert_allclose(flat, 0.7, atol=1e-6)
    assert smooth(jnp.ones((1, 7, 1)), kernel, mode="reflect").shape == (1, 7, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_is_fgsm_and_no_weight_is_bim(net, norm):
    fn, x, y = net
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    ball = threat.by_name(norm)

    def run(attack):
        return attacks.run(attack, KEY, x, y, 0.05, stop="budget").x_adv

    one = run(attacks.smia(objective, ball, num_steps=1, a2=5.0, keep="last"))
    np.testing.assert_allclose(one, run(attacks.fgsm(objective, ball)), atol=1e-12)
    plain = run(attacks.smia(objective, ball, num_steps=7, step_size=0.3, a2=0.0))
    bim = run(attacks.bim(objective, ball, num_steps=7, step_size=0.3))
    np.testing.assert_allclose(plain, bim, atol=1e-12)


def test_loss_and_success_are_those_of_the_task(net):
    fn, x, y = net
    attack = attacks.smia(attacks.from_logits(fn, loss=losses.cross_entropy), threat.linf())
    result = attacks.run(attack, KEY, x, y, 0.05, stop="budget")
    expected = jax.vmap(losses.cross_entropy)(fn(result.x_adv), y)
    np.testing.assert_allclose(result.loss, expected, atol=1e-9)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mode", ["clean", "reference"])
@pytest.mark.parametrize("target", ["soft", "hard"])
def test_multilabel_and_targeted(net, mode, target):
    fn, x, _ = net
    wanted = (fn(x) <= 0).astype(jnp.int32)
    objective = attacks.from_logits(fn, loss=losses.binary_cross_entropy, targeted=True)
    attack = attacks.smia(objective, threat.linf(), num_steps=20, mode=mode, target=target)
    result = attacks.run(attack, KEY, x, wanted, 0.1, stop="budget")
    before = -jax.vmap(losses.binary_cross_entropy)(fn(x), wanted)
    assert (result.loss > before).all()


def test_unknown_words_are_refused(net):
    fn, _, _ = net
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    for options in ({"mode": "fast"}, {"target": "none"}, {"smooth": "image"}, {"ksize": 4},
                    {"mode": "reference", "kernel": "box"},
                    {"mode": "reference", "random_start": True}):  # fmt: skip
        with pytest.raises(ValueError, match=r"smia|kernel"):
            attacks.smia(objective, threat.linf(), **options)
    with pytest.raises(ValueError, match="wrapped"):
        attacks.smia(attacks.with_eot(objective, 2), threat.linf())


@pytest.mark.parametrize("mode", ["clean", "reference"])
def test_equal_terms_cancel_exactly(net, mode):
    # a1 = a2 and a decision that is the label: the gradient is zero, not rounding noise
    fn, x0, y = net
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    kwargs = {"kernel": "gaussian"} if mode == "reference" else {"target": "hard"}
    attack = attacks.smia(
        objective, threat.linf(), num_steps=5, step_size_abs=1e-4, mode=mode, **kwargs
    )
    result = attacks.run(attack, KEY, x0, y, 0.1, stop="budget")
    assert not result.success.any()
    # the first step has no second term and moves; the others have nothing to ascend
    np.testing.assert_allclose(result.distance, 1e-4, rtol=1e-6)
    assert (result.status == Status.ZERO_GRADIENT).all()
