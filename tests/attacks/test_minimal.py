"""Attacks for the minimal norm: closed forms, the reference attacks' distances, invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, threat
from advjax.random import example_keys
from advjax.status import Status
from tests.attacks.test_goldens import NETS, forward

CASES = [
    ("deepfool", "l2"), ("deepfool", "linf"), ("ddn", "l2"), ("cw_l2", "l2"), ("fmn", "l2"),
    ("fmn", "linf"), ("fmn", "l1"),
]  # fmt: skip
BALLS = {"l2": threat.l2(), "linf": threat.linf(), "l1": threat.l1(), "l0": threat.l0()}
DUAL = {
    "l2": lambda w: np.linalg.norm(w, axis=0),
    "linf": lambda w: np.abs(w).sum(0),
    "l1": lambda w: np.abs(w).max(0),
}


def build(name, fn, ball, targeted=False, gradient_fn=None, **options):
    objective = attacks.from_logits(
        fn, loss=losses.cross_entropy, targeted=targeted, gradient_fn=gradient_fn
    )
    return attacks.ATTACKS[name](objective, ball, **options)


def distances(name, fn, ball, x, y, eps=jnp.inf, **options):
    call = jax.jit(
        lambda x, y: attacks.run(build(name, fn, ball, **options), jax.random.key(0), x, y, eps)
    )
    return call(jnp.asarray(x), jnp.asarray(y))


def linear(rows, shape, classes=2, seed=0):
    """Return a linear model, images away from the bounds, and its weights and logits."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(int(np.prod(shape)), classes))
    x = rng.uniform(0.35, 0.65, size=(rows, *shape)).astype(np.float32)
    bias = -x.reshape(rows, -1).mean(0) @ w + rng.uniform(0, 0.1, classes)

    def fn(x):
        flat = x.reshape(x.shape[0], -1)
        return flat @ jnp.asarray(w, x.dtype) + jnp.asarray(bias, x.dtype)

    return fn, x, w, x.reshape(rows, -1).astype(np.float64) @ w + bias


def optimum(w, logits, label, norm):
    """Return the distance to the nearest boundary of a linear model (no bound is active)."""
    rows = []
    for z, y in zip(logits, label, strict=True):
        others = np.arange(len(z)) != y
        rows.append(((z[y] - z[others]) / DUAL[norm](w[:, others] - w[:, [y]])).min())
    return np.asarray(rows)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("rows", "shape"), [(1, (8,)), (3, (4, 6, 1)), (8, (5, 7, 3))], ids=["1", "3", "8"]
)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_closed_form(name, norm, rows, shape):
    fn, x, w, logits = linear(rows, shape)
    y = logits.argmax(1)
    best = optimum(w, logits, y, norm)
    assert DUAL["linf"](w).max() * best.min() > 0
    result = distances(name, fn, BALLS[norm], x, y)
    assert result.distance.dtype == jnp.float32
    assert result.success.all()
    assert (result.distance <= 1.02 * best).all(), result.distance / best
    # float32 may call a point broken that is a rounding short of it
    assert (result.distance >= 0.995 * best).all(), result.distance / best
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert (result.status == Status.OK).all()


@pytest.mark.parametrize(("norm", "best"), [("l2", 0.5 / 32**0.5), ("linf", 0.5 / 32)])
def test_fmn_breaks_images_whose_background_cannot_move(norm, best):
    x = np.full((2, 8, 8, 1), 0.5, np.float32)
    x[:, :, :4] = 0
    w = jnp.where(x[0] > 0, 1.0, -1.0)

    def fn(x):
        score = (x * w).sum((1, 2, 3)) - 16.5
        return jnp.stack([-score, score], -1)

    result = distances("fmn", fn, threat.by_name(norm), x, np.zeros(2, np.int32))
    np.testing.assert_allclose(result.distance, best, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_the_nearest_of_many_classes_at_the_cost_it_says(norm):
    fn, x, w, logits = linear(6, (5, 4, 1), classes=12)
    y = logits.argmax(1)
    result = distances("deepfool", fn, BALLS[norm], x, y, num_classes=12)
    best = optimum(w, logits, y, norm)
    np.testing.assert_allclose(result.distance, best, rtol=0.003)
    # one step, one look at where it led, and ten bisections; the final look is one more
    assert (result.num_grads == 2 * 11).all()
    assert (result.num_queries == 2 + 10 + 1).all()
    fewer = distances("deepfool", fn, BALLS[norm], x, y, search_steps=0)
    assert (fewer.num_grads % 9 == 0).all()
    assert (fewer.num_queries == fewer.num_grads // 9 + 1).all()
    published = distances("deepfool", fn, BALLS[norm], x, y, num_classes=12, search_steps=0)
    scale = 1.02 if norm == "l2" else 1.02 * (1 + 1e-4 / best)
    assert (published.distance >= 1.0199 * best).all()
    assert (published.distance <= (scale + 1.03e-4 / best) * best).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ddn", "fmn", "cw_l2"])
def test_towards_a_target(name):
    fn, x, w, logits = linear(4, (4, 5, 1))
    wanted = logits.argmin(1)
    result = distances(name, fn, BALLS["l2"], x, wanted, targeted=True)
    assert (jnp.argmax(fn(result.x_adv), -1) == wanted).all()
    best = optimum(w, logits, 1 - wanted, "l2")
    np.testing.assert_allclose(result.distance, best, rtol=0.02)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "norm"), [c for c in CASES if c[1] != "l1"])
def test_masked_by_row(name, norm):
    fn, x, w, logits = linear(3, (6, 5, 1))
    y = logits.argmax(1)
    mask = np.zeros((3, 6, 5, 1), bool)
    for i in range(3):
        mask[i, i : i + 3, 1:4] = True
    ball = threat.masked(BALLS[norm], jnp.asarray(mask))
    result = distances(name, fn, ball, x, y)
    assert (result.x_adv == x)[~mask].all()
    inside = [optimum(w * m.reshape(-1, 1), z[None], [t], norm)[0]
              for m, z, t in zip(mask, logits, y, strict=True)]  # fmt: skip
    np.testing.assert_allclose(result.distance, inside, rtol=0.02)


def test_fmn_in_l0_changes_the_fewest_pixels():
    # every pixel can raise the margin by 0.4 of its weight: so many of the largest are needed
    w = jnp.asarray([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])

    def fn(x):
        return jnp.stack([jnp.full(x.shape[0], 3.9), (x - 0.6) @ w + 3.9], 1)

    x = jnp.full((4, 6), 0.6) - jnp.asarray([0.1, 0.2, 0.3, 0.31])[:, None]
    short = 0.6 - np.asarray(x)[:, 0]
    most = [np.cumsum(np.asarray(w) * (0.4 + s)) > s * float(w.sum()) for s in short]
    expected = [int(np.argmax(m)) + 1 for m in most]
    assert len(set(expected)) > 1
    result = distances("fmn", fn, threat.l0(), x, jnp.zeros(4, jnp.int32))
    np.testing.assert_array_equal(result.distance, expected)


@pytest.fixture(params=NETS)
def net(request, golden_dir, x64):
    return dict(np.load(golden_dir / f"{request.param}.npz"))


def against_golden(net, name, norm, **options):
    at = net["correct_index"]
    result = distances(
        name, lambda x: forward(net, x), BALLS[norm.lower()], net["x"][at], net["y"][at], **options
    )
    golden = net[f"{name}/{norm}/distance"]
    found = np.isfinite(golden)
    return np.asarray(result.distance)[found], golden[found]


@pytest.mark.sample(2)
@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "norm"),
    [("ddn", "L2"), ("deepfool", "L2"), ("deepfool", "Linf"), ("fmn", "L0"), ("fmn", "L1"),
     ("fmn", "L2"), ("fmn", "Linf")],
)  # fmt: skip
def test_golden(net, name, norm):
    distance, golden = against_golden(net, name, norm)
    assert np.median(distance) <= 1.02 * np.median(golden)
    assert (distance <= 1.1 * golden).all(), (distance / golden).max()


@pytest.mark.sample(2)
@pytest.mark.golden
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_golden_of_the_published_deepfool(net, norm):
    np.testing.assert_allclose(*against_golden(net, "deepfool", norm, search_steps=0), rtol=1e-6)


@pytest.mark.golden
def test_golden_of_the_published_ddn(net):
    distance, golden = against_golden(net, "ddn", "L2", ascend="loss", search_steps=0)
    # ours evaluates the point after the last move too, which may be nearer by one change of radius
    same = np.isclose(distance, golden, rtol=1e-6)
    assert same.mean() > 0.5
    assert (distance[~same] < golden[~same]).all()
    assert (distance[~same] >= 0.95 * golden[~same] * (1 - 1e-6)).all()


RNG = np.random.default_rng(3)
W1, W2 = RNG.normal(size=(24, 16)), RNG.normal(size=(16, 5))
X = RNG.uniform(0.2, 0.8, (8, 4, 3, 2))


def curved(x):
    return jnp.tanh((x - 0.5).reshape(x.shape[0], -1) @ jnp.asarray(W1)) @ jnp.asarray(W2)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_rows_are_alone_and_one_call_is_the_whole_curve(name, norm, x64):
    options = {"cw_l2": {"num_steps": 60, "num_constants": 5}}.get(name, {})
    x, keys = jnp.asarray(X), example_keys(jax.random.key(1), jnp.arange(8))
    y = jnp.argmax(curved(x), -1).at[2].set(0)
    clean = jnp.argmax(curved(x), -1) != y
    assert clean.sum() == 1

    def plain(keys, x, y, eps):
        return attacks.run(build(name, curved, BALLS[norm], **options), keys, x, y, eps)

    run = jax.jit(plain)
    whole = run(keys, x, y, jnp.inf)
    assert whole.success.all()
    assert (whole.distance == 0).tolist() == clean.tolist()
    assert (jnp.argmax(curved(whole.x_adv), -1) != y).all()
    # order, and other batches; a walk along the edge of two classes lets roundings grow
    loose = 1e-5 if name == "fmn" else 1e-8
    order = jnp.asarray([5, 2, 7, 0, 1, 6, 4, 3])
    for at in (order, jnp.asarray([3]), jnp.asarray([6, 1, 4])):
        part = run(keys[at], x[at], y[at], jnp.inf)
        np.testing.assert_allclose(part.x_adv, whole.x_adv[at], atol=loose)
        np.testing.assert_array_equal(part.num_grads, whole.num_grads[at])
    # a radius changes what counts, and nothing else
    middle = jnp.median(whole.distance)
    for eps in (jnp.full(8, middle), whole.distance, whole.distance * 0.999):
        result = run(keys, x, y, eps)
        np.testing.assert_array_equal(result.success, whole.distance <= eps)
        np.testing.assert_array_equal(
            result.distance, jnp.where(whole.distance <= eps, whole.distance, jnp.inf)
        )


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ddn", "deepfool", "fmn", "cw_l2"])
def test_many_findings(name):
    fn, x, w, logits = linear(4, (4, 5, 1), classes=3)
    y = (logits > 0).astype(np.int32)
    y[0, 1] = -1  # unknown
    result = distances(name, fn, BALLS["l2"], x, y)
    flipped = ((np.asarray(fn(result.x_adv)) > 0) != (y > 0)) & (y >= 0)
    assert flipped.any(1).all()
    nearest = np.where(y >= 0, np.abs(logits) / np.linalg.norm(w, axis=0), np.inf).min(1)
    assert (result.distance >= 0.995 * nearest).all()
    if name == "deepfool":
        assert (result.distance <= 1.02 * nearest).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ddn", "deepfool", "fmn", "cw_l2"])
def test_outputs_that_are_not_finite(name):
    options = {"num_constants": 6} if name == "cw_l2" else {}
    fn, x, _, logits = linear(3, (4, 5, 1))

    def poisoned(x):
        # NaN as soon as the second row moves, infinite for the third
        broken = fn(x) + jnp.asarray([0.0, jnp.nan, jnp.inf])[:, None]
        moved = jnp.any(x != start, (1, 2, 3)) | (jnp.arange(3) == 2)
        return jnp.where(moved[:, None], broken, fn(x))

    start = jnp.asarray(x)
    result = distances(name, poisoned, BALLS["l2"], x, logits.argmax(1), num_steps=20, **options)
    assert jnp.isfinite(result.x_adv).all()
    assert result.success.tolist() == [True, False, False]
    assert result.status.tolist() == [Status.OK, Status.NON_FINITE, Status.NON_FINITE]
    assert (result.distance[1:] == jnp.inf).all()
    assert (result.x_adv[1:] == x[1:]).all()


def test_ddn_leaves_a_plateau_in_a_random_direction():
    def fn(x):
        away = jnp.sum(jnp.square(x - 0.5), 1)
        return jnp.stack([jnp.full(x.shape[0], 0.1), jnp.maximum(away - 0.04, 0)], 1)

    x, y = jnp.full((3, 40), 0.5), jnp.zeros(3, jnp.int32)
    result = distances("ddn", fn, BALLS["l2"], x, y)
    assert (result.status == Status.ZERO_GRADIENT).all()
    np.testing.assert_allclose(result.distance, np.sqrt(0.14), rtol=0.003)
    stuck = distances("fmn", fn, BALLS["l2"], x, y, num_steps=10)
    assert (stuck.status == Status.ZERO_GRADIENT).all()
    assert (stuck.distance == jnp.inf).all()
    assert (stuck.x_adv == x).all()


def test_ddn_on_the_grid_of_8_bits():
    fn, x, _, _ = linear(4, (4, 5, 1))
    x = np.round(x * 255) / 255
    y = np.asarray(fn(jnp.asarray(x))).argmax(1)
    result = distances("ddn", fn, BALLS["l2"], x, y, levels=256)
    assert result.success.all()
    np.testing.assert_allclose(result.x_adv * 255, np.round(result.x_adv * 255), atol=1e-4)


def test_cw_l2_with_confidence():
    fn, x, w, logits = linear(4, (4, 5, 1))
    y = logits.argmax(1)
    result = distances("cw_l2", fn, BALLS["l2"], x, y, kappa=0.5)
    ahead = np.asarray(fn(result.x_adv))
    ahead = ahead[np.arange(4), 1 - y] - ahead[np.arange(4), y]
    assert (ahead >= 0.5).all()
    clean = logits[np.arange(4), y] - logits[np.arange(4), 1 - y]
    best = (clean + 0.5) / np.linalg.norm(w[:, 0] - w[:, 1])
    np.testing.assert_allclose(result.distance, best, rtol=0.02)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ddn", "fmn", "deepfool"])
def test_a_stand_in_that_boasts_leads_nobody_astray(name):
    fn, x, w, logits = linear(4, (4, 5, 1))
    y = logits.argmax(1)
    hot = jax.nn.one_hot(y, 2)
    result = distances(name, fn, BALLS["l2"], x, y, gradient_fn=lambda x: fn(x) - 100 * hot)
    assert (jnp.argmax(fn(result.x_adv), -1) != y).all()
    if name == "ddn":
        np.testing.assert_allclose(result.distance, optimum(w, logits, y, "l2"), rtol=0.02)


@pytest.mark.parametrize(
    ("name", "norm", "options", "word"),
    [
        ("ddn", "linf", {}, "linf"),
        ("cw_l2", "linf", {}, "linf"),
        ("deepfool", "l1", {}, "l1"),
        ("ddn", "l2", {"gamma": 1.0}, "gamma"),
        ("ddn", "l2", {"levels": 1}, "levels"),
        ("ddn", "l2", {"ascend": "logits"}, "ascend"),
        ("ddn", "l2", {"search_steps": 100}, "search_steps"),
        ("fmn", "l2", {"last_gamma": 0.1}, "last_gamma"),
        ("fmn", "l2", {"num_steps": 0}, "num_steps"),
        ("deepfool", "l2", {"num_classes": 1}, "num_classes"),
        ("deepfool", "l2", {"targeted": True}, "untargeted"),
        ("cw_l2", "l2", {"num_constants": 0}, "num_constants"),
        ("cw_l2", "l2", {"kappa": -1.0}, "kappa"),
        ("cw_l2", "l2", {"last_learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_what_cannot_be_is_said(name, norm, options, word):
    with pytest.raises(ValueError, match=word):
        build(name, lambda x: x, BALLS[norm], **options)


def test_deepfool_wants_a_plain_objective():
    objective = attacks.from_logits(lambda x: x, loss=losses.cross_entropy)
    with pytest.raises(ValueError, match="unwrapped"):
        attacks.deepfool(attacks.with_eot(objective, 2), threat.l2())


@pytest.mark.parametrize("name", ["ddn", "deepfool"])
def test_one_class_has_no_margin(name):
    with pytest.raises(ValueError, match="2 classes"):
        distances(name, lambda x: x[:, :1], BALLS["l2"], np.zeros((2, 3)), np.zeros(2, np.int32))
