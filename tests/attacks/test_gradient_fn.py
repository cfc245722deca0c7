"""Gradients by a stand-in (bfloat16, BPDA): it says where to go, and never what is broken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec

from advjax import attacks, losses, mesh, models, testing, threat
from tests.attacks.test_goldens import NETS
from tests.attacks.test_goldens import forward as golden_forward
from tests.attacks.test_wrappers import noisy

KEY = jax.random.key(5)
RNG = np.random.default_rng(1)
W = jnp.asarray(RNG.normal(size=(48, 16)), jnp.float32) / 3
V = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)
X = jnp.asarray(RNG.uniform(size=(21, 4, 4, 3)), jnp.float32)
MODES = [(stop, keep) for stop in ("success", "budget") for keep in ("best", "last")]


def apply(variables, x):
    return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ variables[0]) @ variables[1]


def net(x):
    return apply((W, V), x)


Y = jnp.argmax(net(X), -1)


def boastful(x):
    """The right gradient of the margin, but every row is called broken."""
    return net(x) - 1000 * jax.nn.one_hot(Y, 4)


def low(x):
    return models.in_precision(apply, jnp.bfloat16)((W, V), x)


def objective(gradient_fn=None, **options):
    options = {"loss": losses.cw_margin} | options
    return attacks.from_logits(net, gradient_fn=gradient_fn, **options)


def run(objective, eps=0.02, stop="success", **options):
    options = {"num_steps": 8, "step_size": 0.25} | options
    # no random start: it would take most of the time to compile
    attack = attacks.bim(objective, threat.linf(), **options)
    return jax.jit(lambda x, y: attacks.run(attack, KEY, x, y, eps, stop=stop))(X, Y)


@functools.cache
def plain(stop, keep):
    return run(objective(), stop=stop, keep=keep)


def equations(jaxpr, name):
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner, name)


def dtypes(fn, *args):
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    return {str(v.aval.dtype) for e in equations(jaxpr, "dot_general") for v in e.invars}


def is_broken(x_adv):
    return np.asarray(jnp.argmax(net(x_adv), -1) != Y)


def check(result):
    """What a result says is what the model itself says of its images."""
    np.testing.assert_array_equal(result.success, is_broken(result.x_adv))
    exact = jax.vmap(losses.cw_margin)(net(result.x_adv), Y)
    np.testing.assert_allclose(result.loss, exact, atol=1e-5)


def check_same(true, other):
    """All but the cost: each claim and the best point are looked at by the model too."""
    for name, a, b in zip(true._fields, true, other, strict=True):
        if name != "num_queries":
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert (other.num_queries > true.num_queries).all()


def test_the_function_itself_as_gradient_changes_nothing():
    check_same(plain("success", "best"), run(objective(net)))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("stop", "keep"), MODES)
def test_false_claims_change_nothing(stop, keep):
    # no image is called broken that is not, and a run goes on to the success that comes later
    true = plain(stop, keep)
    check(true)
    assert 0 < true.success.sum() < len(X)
    if stop == "success":
        assert (true.success & (true.num_steps > 1)).any()
    check_same(true, run(objective(boastful), stop=stop, keep=keep))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["nifgsm", "smia"])
def test_no_attack_returns_a_false_success(name):
    attack = attacks.ATTACKS[name](objective(boastful), threat.linf())
    result = jax.jit(lambda x, y: attacks.run(attack, KEY, x, y, 0.01))(X, Y)
    np.testing.assert_array_equal(result.success, is_broken(result.x_adv))
    assert 0 < result.success.sum() < len(X)


def test_smia_as_its_authors_have_it_is_confirmed_too():
    attack = attacks.smia(
        objective(boastful), threat.linf(), mode="reference", kernel="gaussian", num_steps=3
    )
    result = attacks.run(attack, KEY, X, Y, 0.003)
    assert 0 < result.success.sum() < len(X)
    np.testing.assert_array_equal(result.success, is_broken(result.x_adv))


def test_bfloat16_results_are_those_of_float32_judgement():
    result = run(objective(low), stop="budget")
    check(result)
    gap = int(result.success.sum()) - int(plain("budget", "best").success.sum())
    assert abs(gap) <= 1


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["bim", "difgsm", "nifgsm"])
def test_a_model_that_cannot_be_differentiated_is_attacked_through_a_stand_in(name):
    def quantised(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return net(jax.pure_callback(lambda x: np.round(x * np.float32(64)) / 64, shape, x))

    bpda = attacks.from_logits(quantised, loss=losses.cw_margin, gradient_fn=net)
    attack = attacks.ATTACKS[name](bpda, threat.linf(), num_steps=3)
    result = attacks.run(attack, KEY, X, Y, 0.03)
    assert result.success.sum() > len(X) // 2
    broken = jnp.argmax(quantised(result.x_adv), -1) != Y
    np.testing.assert_array_equal(result.success, broken)


WRAPPED = {
    "plain": lambda o: o,
    "loss": lambda o: o.with_loss(losses.cross_entropy),
    "eot": lambda o: attacks.with_eot(o, 2),
    "diversity": attacks.with_input_diversity,
    "ensemble": lambda o: attacks.ensemble([o, o]),
    "stabilisation": attacks.with_stabilisation,
    "eot of stabilisation": lambda o: attacks.with_eot(attacks.with_stabilisation(o), 2).with_loss(
        losses.cross_entropy
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_differentiate_the_stand_in_and_judge_the_model(name):
    wrapped = WRAPPED[name](objective(low))
    keys = jax.random.split(KEY, len(X))
    state = wrapped.init(X, Y, jnp.full(len(X), 0.1))

    def ascent(x):
        return wrapped.evaluate(x, Y, state, keys)[0].ascent.sum()

    def judge(x):
        return wrapped.judge(x, Y, keys)

    asked = dtypes(jax.grad(ascent), X)
    # input diversity judges the image itself at every step
    assert asked == ({"bfloat16", "float32"} if name == "diversity" else {"bfloat16"})
    assert jax.eval_shape(jax.grad(ascent), X).dtype == jnp.float32
    assert dtypes(judge, X) == {"float32"}
    assert dtypes(lambda x: wrapped.apply(x, keys), X) == {"float32"}
    assert dtypes(lambda x: wrapped.ascent_apply(x, keys), X) == {"bfloat16"}
    assert wrapped.approximate == (name != "diversity")


def test_only_an_approximate_objective_asks_for_confirmation():
    def whiles(objective):
        attack = attacks.bim(objective, threat.linf(), num_steps=3)
        keys = jax.random.split(KEY, len(X))
        eps = jnp.full(len(X), 0.1)
        state = attack.init(keys, X, Y, eps)
        jaxpr = jax.make_jaxpr(lambda s: attack.step(s, X, Y, eps, True))(state).jaxpr
        return len(list(equations(jaxpr, "while")))

    assert whiles(objective()) == 0
    assert whiles(objective(low)) == 1


@pytest.mark.slow
def test_a_random_model_is_judged_with_the_numbers_of_its_claim():
    fn = noisy(net, 0.2)
    first, same = (
        attacks.from_logits(fn, loss=losses.cw_margin, randomised=True, gradient_fn=g)
        for g in (None, fn)
    )
    a, b = (run(attacks.with_eot(o, 3)) for o in (first, same))
    assert 0 < a.success.sum() < len(X)
    np.testing.assert_array_equal(a.success, b.success)
    np.testing.assert_array_equal(a.num_steps, b.num_steps)
    np.testing.assert_allclose(a.x_adv, b.x_adv, atol=1e-6)


def test_under_vmap_and_shard_map():
    # float32: a row's bfloat16 gradient may round differently in another batch
    def claims(x):
        return net(x) + jnp.array([0.0, 0.3, 0.6, 0.9])

    attack = attacks.bim(objective(claims), threat.linf(), num_steps=4)

    def call(keys, x, y):
        return attacks.run(attack, keys, x, y, 0.02)

    parts = jax.random.split(KEY, 16), X[:16], Y[:16]
    whole = jax.jit(call)(*parts)
    assert 0 < whole.success.sum() < 16
    mapped = jax.jit(jax.vmap(call))(*(v.reshape(2, 8, *v.shape[1:]) for v in parts))
    spec = PartitionSpec(mesh.AXIS)
    sharded = jax.jit(
        jax.shard_map(call, mesh=mesh.data_mesh(2), in_specs=(spec,) * 3, out_specs=spec)
    )(*parts)
    for other in (mapped, sharded):
        np.testing.assert_array_equal(other.success.reshape(-1), whole.success)
        np.testing.assert_allclose(other.x_adv.reshape(whole.x_adv.shape), whole.x_adv, atol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_models_in_bfloat16_meet_the_closed_form_loosely(norm):
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    half = models.in_precision(lambda v, x: x.reshape(x.shape[0], -1) @ v, jnp.bfloat16)
    w = jnp.asarray(weights, jnp.float32)
    objective = attacks.from_logits(fn, loss=losses.cross_entropy, gradient_fn=lambda x: half(w, x))
    attack = attacks.bim(objective, threat.by_name(norm), num_steps=40, step_size=0.25)
    eps = jnp.linspace(0.001, 0.3, len(x))
    result = attacks.run(attack, KEY, x, y, eps, stop="budget")
    difference = weights[:, 1] - weights[:, 0]
    dual = np.abs(difference).sum() if norm == "linf" else np.linalg.norm(difference)

    def margin(x):
        logits = np.asarray(fn(x), np.float64)
        return (logits[:, 0] - logits[:, 1]) * np.where(np.asarray(y) == 0, 1, -1)

    best = margin(x) - np.asarray(eps) * dual
    np.testing.assert_allclose(margin(result.x_adv), best, atol=2e-3 * dual)
    np.testing.assert_array_equal(result.success, margin(result.x_adv) < 0)


@pytest.mark.sample(1)
@pytest.mark.golden
@pytest.mark.parametrize("name", NETS)
def test_robust_accuracy_of_the_golden_nets_is_that_of_float32(name, golden_dir):
    stored = dict(np.load(golden_dir / f"{name}.npz"))
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in stored.items() if k[0] in "wb"}
    x = jnp.asarray(stored["x"], jnp.float32)
    y = jnp.argmax(golden_forward(arrays, x), -1)
    half = models.in_precision(golden_forward, jnp.bfloat16)

    @jax.jit
    def accuracy(x, y, eps):
        pair = [
            attacks.from_logits(
                lambda x: golden_forward(arrays, x), loss=losses.cross_entropy, gradient_fn=fn
            )
            for fn in (None, lambda x: half(arrays, x))
        ]
        return [
            1 - attacks.run(attacks.bim(o, threat.linf()), KEY, x, y, eps).success.mean()
            for o in pair
        ]

    found = np.array([accuracy(x, y, eps) for eps in (0.002, 0.005, 0.01, 0.02, 0.05)])
    assert 0 < found.mean() < 1
    print(name, len(x), found)
    # one image in four at most falls to float32 and not to bfloat16
    assert np.abs(found[:, 0] - found[:, 1]).max() <= max(0.05, 1 / len(x))


def test_a_gradient_function_is_a_function():
    with pytest.raises(ValueError, match="gradient_fn: expected a function"):
        objective("bfloat16")
