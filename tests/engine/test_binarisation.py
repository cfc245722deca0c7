"""An attack that works breaks models that surely can be broken; one that does not is found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, threat
from advjax.engine import _binarisation, _readout

KEY = jax.random.key(3)
RNG = np.random.default_rng(7)
N, SIZE, WIDTH = 12, 5 * 4 * 3, 48
X = RNG.integers(0, 256, size=(N, 5, 4, 3), dtype=np.uint8)
PARAMS = {
    "first": RNG.normal(size=(SIZE, WIDTH)).astype(np.float32) / np.sqrt(SIZE) * 3,
    "last": RNG.normal(size=(WIDTH, 3)).astype(np.float32) / np.sqrt(WIDTH),
    "scale": np.float32(1),
    "masker": 0,
}
EPS = 0.1


def hidden(params, x):
    flat = x.reshape(x.shape[0], -1)
    return jnp.tanh(flat @ params["first"]) * params["scale"] + 10 * params["scale"]


def logits(params, x):
    return hidden(params, x) @ params["last"]


def masked(params, x):
    """The features behind one of three layers that hide the gradient."""
    layers = [
        lambda x: jnp.round(x * 10) / 10,
        jax.lax.stop_gradient,
        lambda x: x * jnp.float32(1e5) - 0.5e5,  # the slope of tanh rounds to zero
    ]
    return hidden(params, jax.lax.switch(params["masker"], layers, x))


def pgd(objective, ball):
    return attacks.pgd(objective, ball, num_steps=20, step_size=0.2)


def margin(objective, ball):
    return attacks.cw_linf(objective, ball, num_steps=20, step_size=0.2)


def timid(objective, ball):
    return attacks.bim(objective, ball, num_steps=2, step_size=0.4)


def run(make_attack, features, params=PARAMS, **options):
    options = {"eps": EPS, "key": KEY, **options}
    return engine.binarisation_test(make_attack, features, params, X, **options)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("features", "norm", "eps"),
    [(hidden, "linf", EPS), (hidden, "l2", 0.5), (logits, "linf", EPS)],
    ids=["features-linf", "features-l2", "logits-linf"],
)
def test_an_honest_model_passes(features, norm, eps):
    found = run(pgd, features, norm=norm, eps=eps)
    assert found.num_tested == found.tested.sum() >= N - 1
    assert found.attack_success == 1
    assert found.flag == engine.Flag(
        "binarisation_unsolved", 0, found.num_tested, "ok", "nothing found"
    )
    assert found.random_success == found.random_solved.sum() / found.num_tested <= 0.3
    assert not (found.solved & ~found.tested).any()


@pytest.mark.sample(2)
@pytest.mark.parametrize("masker", [0, 1, 2], ids=["quantised", "no derivative", "saturated"])
def test_hidden_gradients_fail(masker):
    found = run(pgd, masked, {**PARAMS, "masker": masker})
    assert found.num_tested >= N // 2
    assert found.attack_success < 0.7
    assert found.flag.verdict == "unreliable"
    assert f"of {found.num_tested} images stood" in found.flag.text


def test_an_attack_that_is_too_weak_fails():
    found = run(timid, hidden)
    assert found.num_tested >= N - 1
    assert found.attack_success < 0.7
    assert found.flag.verdict == "unreliable"


def test_losses_of_an_attack_see_two_logits():
    assert run(margin, hidden).attack_success == 1


def test_the_scale_of_the_features_does_not_matter():
    small, large = (
        run(timid, hidden, {**PARAMS, "scale": np.float32(scale)}) for scale in (1e-3, 1e3)
    )
    assert small.num_tested == large.num_tested == N
    np.testing.assert_array_equal(small.solved, large.solved)


def test_an_image_does_not_depend_on_its_company():
    whole, parts = run(timid, hidden), run(timid, hidden, batch_size=5)
    assert 0 < whole.solved.sum() < N
    for name in ("tested", "solved", "random_solved"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    order = np.random.default_rng(1).permutation(N)
    moved = engine.binarisation_test(
        timid, hidden, PARAMS, X[order], eps=EPS, key=KEY, ids=order
    )  # fmt: skip
    np.testing.assert_array_equal(moved.tested, whole.tested[order])
    np.testing.assert_array_equal(moved.solved, whole.solved[order])


def test_what_nothing_separates_is_left_out_and_said():
    found = run(pgd, hidden, {**PARAMS, "first": np.zeros_like(PARAMS["first"])})
    assert found.num_tested == 0
    assert np.isnan(found.attack_success)
    assert found.flag.verdict == "suspicious"
    assert "says nothing" in found.flag.text


def test_a_test_that_random_points_pass_says_nothing():
    result = _binarisation._result(np.ones(4, bool), np.ones(4, bool), np.array([1, 1, 1, 0], bool))
    assert result.attack_success == 1
    assert result.random_success == 0.75
    assert result.flag.verdict == "suspicious"
    assert "random points solve 3 of 4" in result.flag.text


def test_shares_become_verdicts():
    for solved, verdict in ((95, "ok"), (94, "suspicious"), (70, "suspicious"), (69, "unreliable")):
        rows = np.arange(100) < solved
        result = _binarisation._result(np.ones(100, bool), rows, np.zeros(100, bool))
        assert result.flag.verdict == verdict


@pytest.mark.parametrize("size", [2, 40, 300])
def test_the_read_out_separates_what_can_be_separated(size):
    rng = np.random.default_rng(size)
    points = rng.normal(size=(101, size)) * 10.0 ** rng.uniform(-1, 1, size) + 50
    # far along an axis of small spread
    points[60] += 30 * np.eye(size)[0]
    wanted = _readout.Wanted(inner=41, outer=30, boundary=1, closeness=0.9)
    found = _readout.fit(points, wanted)
    assert found.separable
    assert found.place == 60
    scores = np.array([float(_readout.score(row, found.readout)) for row in points])
    assert (scores[:41] < 0).all()
    assert scores[60] > 0
    np.testing.assert_allclose(scores[:41].mean(), -1, rtol=1e-3)
    # the threshold lies at 9 / 10 of the gap
    gap = scores[60] - scores[:41].max()
    np.testing.assert_allclose(scores[60], 0.1 * gap, rtol=1e-3)
    assert found.random_solves == (scores[71:] > 0).any()


def test_points_of_the_surface_lie_on_it():
    rng = np.random.default_rng(0)
    # most pixels at their bounds
    x = jnp.asarray(np.clip(rng.normal(0.5, 1, (8, 4, 3, 2)), 0, 1))
    for ball, eps in ((threat.linf(), 0.3), (threat.l2(), 0.4)):
        keys, budget = jax.random.split(KEY, len(x)), jnp.full(len(x), eps)
        points = _binarisation._on_surface(ball, keys, x, budget)
        assert points.min() >= 0
        assert points.max() <= 1
        np.testing.assert_allclose(threat.over_rows(ball).distance(points, x), eps, rtol=1e-5)


def test_double_precision(x64):
    params = jax.tree.map(np.float64, {k: v for k, v in PARAMS.items() if k != "masker"})
    found = engine.binarisation_test(
        timid, hidden, params, X / 255, eps=EPS, key=KEY, closeness=0.999999
    )
    assert found.num_tested == N
    assert found.attack_success < 0.7


@pytest.mark.parametrize(
    "wrong",
    [{"eps": 0}, {"norm": "l7"}, {"num_inner": 0}, {"num_boundary": 0}, {"closeness": 1.0},
     {"num_boundary": 101}, {"bounds": (0.4, 0.6)}],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"eps|norm|num_|closeness|bounds"):
        run(pgd, hidden, **wrong)
