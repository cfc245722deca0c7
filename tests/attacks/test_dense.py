"""Attacks on masks against naive renderings of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, criteria, losses, threat
from advjax.attacks._dense import DAG_STEP

KEY = jax.random.key(0)
K = 3
RNG = np.random.default_rng(5)
W1, W2 = RNG.normal(size=(3, 3, 2, 6)), RNG.normal(size=(6, K))
X = jnp.asarray(RNG.uniform(0.25, 0.75, (3, 5, 4, 2)), jnp.float32)


def net(x):
    """A smooth net with a view of 3 x 3 pixels."""
    padded = jnp.pad(x - 0.5, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    hidden = sum(padded[:, i : i + h, j : j + w] @ jnp.asarray(W1[i, j], x.dtype)
                 for i in range(3) for j in range(3))  # fmt: skip
    return jnp.tanh(hidden) @ jnp.asarray(W2, x.dtype)


NET = jax.jit(net)
MASKS = np.asarray(jnp.argmax(NET(X), -1))
MASKS = np.where(RNG.uniform(size=MASKS.shape) < 0.2, (MASKS + 1) % K, MASKS)
MASKS[0, 0, :2] = losses.IGNORE
WANTED = np.full_like(MASKS, 0)
WANTED[:, 1:4, 1:3] = 1


def objective(targeted=False, fn=net, **options):
    options = {"loss": losses.pixel_cross_entropy, "targeted": targeted} | options
    return attacks.from_logits(fn, **options)


def follow(ascent, weigh, moves, move, x0, eps):
    """Iterate `x <- project(x + move(gradient))` on `ascent(x, weights)`, weights by the point."""
    x0 = np.asarray(x0, np.float64)
    gradient = jax.jit(jax.grad(lambda x, weights: ascent(x, weights).sum()))
    points = [x0]
    for t in range(moves):
        x = points[-1]
        g = np.asarray(gradient(jnp.asarray(x), jnp.asarray(weigh(x, t))))
        points.append(np.clip(np.clip(x + move(g, x, t), x0 - eps, x0 + eps), 0, 1))
    return points


def decided(x):
    return np.asarray(NET(jnp.asarray(x))).argmax(-1)


def cross_entropies(x, mask):
    log_p = jax.nn.log_softmax(net(x))
    return -jnp.take_along_axis(log_p, jnp.asarray(mask % 255 % K)[..., None], -1)[..., 0]


def mean_over_known(values, mask):
    known = mask != 255
    return (known * values).sum((1, 2)) / known.sum((1, 2))


def run(attack, target, eps, x=X):
    """One program: every step of every image."""

    @jax.jit
    def call(x, target):
        return attacks.run(attack, KEY, x, target, eps, stop="budget")

    return call(jnp.asarray(np.asarray(x, np.float64)), jnp.asarray(target))


@pytest.mark.sample(1)
@pytest.mark.parametrize("targeted", [False, True])
def test_segpgd_step_by_step(targeted, x64):
    mask, steps, eps = WANTED if targeted else MASKS, 6, 0.05

    def weigh(point, t):
        right = decided(point) == mask
        # pixels on which the attack is not there yet lead at first
        todo = ~right if targeted else right
        return np.where(todo, 1 - t / (2 * steps), t / (2 * steps))

    def ascent(x, weight):
        return (-1 if targeted else 1) * mean_over_known(weight * cross_entropies(x, mask), mask)

    points = follow(ascent, weigh, steps, lambda g, x, t: 0.3 * eps * np.sign(g), X, eps)
    attack = attacks.segpgd(
        objective(targeted), threat.linf(), num_steps=steps, step_size=0.3, random_start=False,
        keep="last",
    )  # fmt: skip
    result = run(attack, mask, eps)
    np.testing.assert_allclose(result.x_adv, points[-1], atol=1e-10)
    # what is reported is the loss of the task
    task = jax.vmap(losses.pixel_cross_entropy)(net(result.x_adv), jnp.asarray(mask))
    np.testing.assert_allclose(result.loss, -task if targeted else task, rtol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("targeted", "squash"), [(False, "softmax"), (True, "softmax"), (False, "sigmoid")]
)
def test_cospgd_step_by_step(targeted, squash, x64):
    mask, steps, eps = WANTED if targeted else MASKS, 5, 0.05

    def weigh(point, t):
        z = np.asarray(NET(jnp.asarray(point)))
        p = np.exp(z) if squash == "softmax" else 1 / (1 + np.exp(-z))
        own = np.take_along_axis(p, (mask % 255 % K)[..., None], -1)[..., 0]
        weight = own / np.linalg.norm(p, axis=-1)
        return 1 - weight if targeted else weight

    def ascent(x, weight):
        return (-1 if targeted else 1) * mean_over_known(weight * cross_entropies(x, mask), mask)

    points = follow(ascent, weigh, steps, lambda g, x, t: 0.3 * eps * np.sign(g), X, eps)
    attack = attacks.cospgd(
        objective(targeted), threat.linf(), num_steps=steps, step_size=0.3, random_start=False,
        keep="last", squash=squash,
    )  # fmt: skip
    np.testing.assert_allclose(run(attack, mask, eps).x_adv, points[-1], atol=1e-10)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("targeted", "active", "against"),
    [(False, "not_reached", "prediction"), (False, "correct", "label"),
     (False, "not_reached", "label"), (True, "not_reached", "prediction")],
)  # fmt: skip
def test_dag_step_by_step(targeted, active, against, x64):
    mask, steps, eps = WANTED if targeted else MASKS, 7, 0.02
    aim = mask % 255 if targeted else (mask % 255 + 2) % K

    def weigh(point, t):
        found = decided(point)
        part = (found == mask) if active == "correct" else (found != aim)
        left = found if against == "prediction" else mask % 255
        return (part & (mask != 255))[..., None] * (np.eye(K)[aim % K] - np.eye(K)[left % K])

    def ascent(x, weights):
        return (weights * net(x)).sum((1, 2, 3))

    def move(g, x, t):
        largest = np.abs(g).max((1, 2, 3), keepdims=True)
        return 0.5 / 255 * g / np.where(largest > 0, largest, 1)

    points = follow(ascent, weigh, steps, move, X, eps)
    attack = attacks.dag(
        objective(targeted), threat.linf(), num_steps=steps, keep="last", shift=2, active=active,
        against=against,
    )  # fmt: skip
    np.testing.assert_allclose(run(attack, mask, eps).x_adv, points[-1], atol=1e-10)


def linear(x):
    """Every pixel by itself, far from the bounds."""
    return (x - 0.5) @ jnp.asarray([[4.0, -3.0, 1.0], [-2.0, 5.0, 2.0]], x.dtype)


@pytest.mark.sample(1)
@pytest.mark.parametrize("targeted", [False, True])
def test_dag_empties_its_active_set_in_steps_of_one_size(targeted):
    x = jnp.asarray(RNG.uniform(0.45, 0.55, (2, 10, 12, 2)), jnp.float32)
    clean = jnp.argmax(linear(x), -1)
    mask = (clean + 1) % K if targeted else clean
    criterion = criteria.pixels_reached(0.99) if targeted else criteria.pixel_accuracy_below(0.01)
    attack = attacks.dag(objective(targeted, linear, criterion=criterion), threat.linf())
    state = attack.init(jax.random.split(KEY, 2), x, mask, jnp.ones(2))
    step = jax.jit(lambda state: attack.step(state, x, mask, jnp.ones(2), True))
    while not state.success.all():
        before, state = state, step(state)
        moved = jnp.abs(state.x - before.x).max((1, 2, 3))
        # ||step||_inf = 0.5/255 each time, until it is done
        np.testing.assert_allclose(jnp.where(state.success, DAG_STEP, moved), DAG_STEP, rtol=1e-4)
        assert (state.step <= attack.spec.num_steps).all()
    right = (jnp.argmax(linear(state.best_x), -1) == mask).mean((1, 2))
    assert ((right >= 0.99) if targeted else (right <= 0.01)).all()
    assert (state.step > 5).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("targeted", [True, False])
def test_asma_step_by_step(targeted, x64):
    mask, steps, eps, beta, tau = WANTED if targeted else MASKS, 8, 1.0, 3e-3, 1e-3
    known = mask != 255

    def weigh(point, t):
        right = decided(point) == mask
        part = known & (~right if targeted else right)
        return part[..., None] * np.eye(K)[mask % 255 % K] * (1 if targeted else -1)

    def ascent(x, weights):
        pull = (weights * net(x)).sum((1, 2, 3))
        return pull - ((x - np.asarray(X, np.float64)) ** 2).sum((1, 2, 3))

    def move(g, x, t):
        found = decided(x)
        sizes = []
        for i in range(len(x)):
            ratios = []
            for k in range(K):
                a, b = (found[i] == k) & known[i], (mask[i] == k) & known[i]
                if (a | b).any():
                    ratios.append((a & b).sum() / (a | b).sum())
            progress = np.mean(ratios) if targeted else 1 - np.mean(ratios)
            sizes.append(tau if t == 0 else beta * progress + tau)
        return g * np.reshape(sizes, (-1, 1, 1, 1))

    points = follow(ascent, weigh, steps, move, X, eps)
    attack = attacks.asma(objective(targeted), threat.linf(), num_steps=steps, beta=beta, tau=tau)
    state = attack.init(jax.random.split(KEY, 3), *inputs(mask, eps))
    step = jax.jit(lambda state: attack.step(state, *inputs(mask, eps)))
    for point in points[1:]:
        state = step(state)
        np.testing.assert_allclose(state.x, point, atol=1e-10)


def inputs(mask, eps):
    return X.astype(jnp.float64), jnp.asarray(mask), jnp.full(3, eps)


def test_asma_at_its_mask_goes_back_towards_the_image(x64):
    # every pixel has its wanted class: the prediction term is zero, the distance is all there is
    start = jnp.asarray(np.clip(np.asarray(X, np.float64) + 0.01, 0, 1))
    mask = np.asarray(net(start)).argmax(-1)
    attack = attacks.asma(objective(True), threat.linf(), num_steps=1, beta=0.1, tau=0.02)
    keys, given = jax.random.split(KEY, 3), inputs(mask, 1.0)
    state = jax.jit(lambda start: attack.step(attack.init(keys, *given, start), *given))(start)
    np.testing.assert_allclose(state.x, start - 2 * 0.02 * (start - X), atol=1e-12)
    with pytest.raises(ValueError, match="negative"):
        attacks.asma(objective(True), threat.linf(), tau=-1.0)


def test_words_of_dag_and_wrapped_objectives_are_refused():
    refused = [({"active": "all"}, False), ({"against": "all"}, False),
               ({"against": "label"}, True), ({"active": "correct"}, True)]  # fmt: skip
    for options, targeted in refused:
        with pytest.raises(ValueError, match=r"active|against|targeted"):
            attacks.dag(objective(targeted), threat.linf(), **options)
    with pytest.raises(ValueError, match="shift 3"):
        run(attacks.dag(objective(), threat.linf(), shift=3, num_steps=1), MASKS, 0.1, X)
    with pytest.raises(ValueError, match="squash"):
        attacks.cospgd(objective(), threat.linf(), squash="tanh")
    for build in (attacks.segpgd, attacks.cospgd, attacks.dag, attacks.asma):
        with pytest.raises(ValueError, match="wrapped"):
            build(attacks.with_eot(objective(), 2), threat.linf())


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "smia", "segpgd", "cospgd"])
def test_closed_form_of_a_linear_model_of_two_classes(name):
    """Every pixel's margin falls by eps times the l1 norm of its weights, and no further."""
    w = jnp.asarray([[1.0, -0.5], [-2.0, 0.25]])
    x = jnp.asarray(RNG.uniform(0.3, 0.7, (3, 4, 4, 2)), jnp.float32)
    fn = lambda x: (x - 0.5) @ w
    mask = jnp.argmax(fn(x), -1)
    eps = jnp.asarray([0.02, 0.05, 0.1])

    def margin(x):
        z = fn(x)
        return jnp.where(mask == 0, z[..., 0] - z[..., 1], z[..., 1] - z[..., 0])

    options = {} if name == "fgsm" else {"num_steps": 10, "step_size": 0.25}
    options |= {"a2": 0.5} if name == "smia" else {}
    attack = attacks.ATTACKS[name](objective(fn=fn), threat.linf(), **options)
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, mask, eps, stop="budget"))(x)
    expected = margin(x) - eps[:, None, None] * jnp.abs(w[:, 0] - w[:, 1]).sum()
    np.testing.assert_allclose(margin(result.x_adv), expected, atol=1e-5)
    # the default criterion: Dice of the foreground below one half
    found = jax.vmap(criteria.dice)(fn(result.x_adv), mask) < 0.5
    np.testing.assert_array_equal(result.success, found)


def test_pgd_on_dice_ascends_dice():
    attack = attacks.pgd(objective(loss=losses.dice_loss), threat.linf(), num_steps=10)
    result = jax.jit(lambda x, y: attacks.run(attack, KEY, x, y, 0.1, stop="budget"))(X, MASKS)
    dice = jax.vmap(losses.dice_loss)
    np.testing.assert_allclose(result.loss, dice(net(result.x_adv), jnp.asarray(MASKS)), rtol=1e-5)
    # a long way from the best of 300 random corners
    corners = X + 0.1 * jnp.asarray(RNG.choice([-1.0, 1.0], (300, *X.shape)), X.dtype)
    best = jax.vmap(lambda x: dice(net(x), jnp.asarray(MASKS)))(corners).max(0)
    assert (result.loss > best).all()


def test_divergences():
    z, r = jnp.asarray(RNG.normal(size=(2, 4, 5, K)))
    mask = jnp.asarray(RNG.integers(0, K, (4, 5))).at[0].set(255)
    p, q = np.asarray(jax.nn.softmax(r)), np.asarray(jax.nn.softmax(z))
    expected = (p * np.log(p / q)).sum(-1)[1:].mean()
    np.testing.assert_allclose(losses.divergence(z, r, mask), expected, rtol=1e-4)
    np.testing.assert_allclose(losses.divergence(r, r, mask), 0, atol=1e-6)
    one, labels = jnp.asarray(1), jnp.asarray([1, 0, -1])
    assert losses.divergence(z[0, 0], r[0, 0], one) == losses.kl(z[0, 0], r[0, 0])
    soft = losses.binary_cross_entropy(z[0, 0], jax.nn.sigmoid(r[0, 0]))
    assert losses.divergence(z[0, 0], r[0, 0], labels) == soft
    # hard: the loss at the decision, and whether that is the target
    decided = jnp.where(mask == 255, 255, jnp.argmax(r, -1))
    for target, same in ((mask, False), (decided, True)):
        loss, is_same = losses.decision_loss(z, r, target)
        np.testing.assert_allclose(loss, losses.pixel_cross_entropy(z, decided), rtol=1e-6)
        assert bool(is_same) is same


def test_no_gradient_where_no_pixel_counts_is_flagged():
    mask = np.full_like(MASKS, 255)
    result = run(attacks.segpgd(objective(), threat.linf(), num_steps=2), mask, 0.1, X)
    assert (result.status == Status.ZERO_GRADIENT).all()
    assert not result.success.any()
