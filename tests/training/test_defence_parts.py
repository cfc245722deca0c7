"""Defences: what each is made of, step by step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, models, threat, training
from advjax.config import OptimizerConfig
from advjax.training import methods
from advjax.training.methods._attacked import budgets
from tests.training.defended import (
    EPS,
    KEY,
    RNG,
    build,
    config,
    outputs,
    result,
    run,
    variables,
)
from tests.training.tiny import SHAPE, context, make_batch, tiny_model


def test_trades_attacks_the_divergence_from_a_start_of_noise():
    found, batch = result("trades", beta=3.0), make_batch()
    params, state = variables()
    keys = methods.rows_of(KEY, batch, "pgd")

    def evaluated(x):
        return tiny_model().apply({"params": params, **state}, x)

    def total(x):
        return jax.vmap(losses.kl)(evaluated(x), evaluated(batch.image)).sum()

    @jax.jit
    def attacked(keys):
        x = batch.image + 0.001 * jax.vmap(lambda k: jax.random.normal(k, SHAPE))(keys)
        x = jnp.clip(x, 0, 1)
        for _ in range(2):
            x = x + 1.25 * EPS * jnp.sign(jax.grad(total)(x))  # 2.5 / 2 steps
            x = jnp.clip(jnp.clip(x, batch.image - EPS, batch.image + EPS), 0, 1)
        return x

    x = attacked(keys)
    np.testing.assert_allclose(found.views["adversarial"], x, atol=1e-6)
    rows = jax.vmap(lambda *row: losses.trades(*row, beta=3.0))(
        outputs(batch.image), outputs(x), batch.target
    )
    np.testing.assert_allclose(found.loss, rows.mean(), rtol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["trades", "mart"])
def test_gradients_flow_into_both_outputs_and_not_through_the_attack(name):
    found, batch = result(name), make_batch()
    params, state = variables()

    def beside(params):
        model = {"params": params, **state}
        images = (batch.image, found.views["adversarial"])
        outputs = [tiny_model().apply(model, v, train=True)[0] for v in images]
        return jax.vmap(getattr(losses, name))(*outputs, batch.target).mean()

    wanted = jax.jit(jax.grad(beside))(params)
    chex.assert_trees_all_close(found.gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_hat_labels_its_helper_examples_at_the_adversarial_ones(task):
    found = result("hat", task, hat_reach=3.0, hat_gamma=0.7, beta=0.0)
    helper, batch, views = context().helper, make_batch(task=task), found.views
    moved = views["adversarial"]
    np.testing.assert_allclose(views["further"], batch.image + 3 * (moved - batch.image), atol=1e-6)
    assert views["further"].min() < 0  # not clipped
    output = helper.apply(helper.variables, moved)
    label = output.argmax(-1) if task == "single" else (output > 0).astype(np.int32)
    np.testing.assert_array_equal(views["label"], label)
    loss = jax.vmap(methods.get_task(task).loss)
    clean = loss(outputs(batch.image), batch.target).mean()
    far = loss(outputs(views["further"]), views["label"]).mean()
    np.testing.assert_allclose(found.loss, clean + 0.7 * far, rtol=1e-5)


def _budgets(method_config, count, per="example"):
    draws = methods.Draws((0.01, 0.04), (1, 9), 0.5, per)
    inner = methods.drawn(method_config, draws, 1 / 255)
    batch = make_batch(count)
    state = {k: jnp.asarray(v) for k, v in
             {"eps": (0.01, 0.04), "steps": (1, 9), "share": 0.5}.items()}  # fmt: skip
    return jax.jit(lambda key: budgets(inner, state, key, batch))


def test_mpadvt_draws_what_the_paper_says():
    """Half of the images, eps uniform on [0.01, 0.04], 1 to 9 steps with equal probability."""
    found = _budgets(config("mpadvt"), 20_000)(KEY)
    eps, steps = (np.asarray(found[n]) for n in ("eps", "num_steps"))
    attacked = steps > 0
    np.testing.assert_array_equal(attacked, eps > 0)
    np.testing.assert_allclose(attacked.mean(), 0.5, atol=0.015)  # 4 sigma
    eps, steps = eps[attacked], steps[attacked]
    assert eps.min() >= 0.01
    assert eps.max() <= 0.04
    # Kolmogorov-Smirnov: uniform, and independent of the number of steps
    for part in (eps, eps[steps <= 4], eps[steps > 4]):
        ranks = (np.sort(part) - 0.01) / 0.03
        gap = np.abs(ranks - np.arange(1, len(part) + 1) / len(part)).max()
        assert gap < 2 / np.sqrt(len(part))
    counts = np.bincount(steps, minlength=10)
    assert counts[0] == 0
    assert len(counts) == 10
    expected = len(steps) / 9
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 30  # chi-squared, 8 degrees: 2e-4


def test_draws_of_a_batch_are_shared_and_change_with_the_key():
    draw = _budgets(config("mpadvt"), 16, per="batch")
    found = [draw(jax.random.key(i)) for i in range(400)]
    for one in found:
        assert len(set(np.asarray(one["eps"]).tolist())) == 1
        assert len(set(np.asarray(one["num_steps"]).tolist())) == 1
    steps = np.asarray([one["num_steps"][0] for one in found])
    np.testing.assert_allclose((steps > 0).mean(), 0.5, atol=0.1)
    assert set(steps) == set(range(10))


@pytest.mark.slow
def test_rows_of_mpadvt_keep_to_their_own_budget_and_steps():
    """Each row by hand: a random start in its ball, and so many steps of 1/255 as it drew."""
    params, state = variables()
    batch = make_batch(64)
    method = build("mpadvt", steps_range=(1, 9))
    views = np.asarray(run(method, batch).views["pgd"])
    draws = methods.Draws((0.01, 0.04), (1, 9), 0.5)
    eps, steps = methods.draw(draws, method.init(params)["pgd"], KEY, batch, "pgd")
    starts = jax.vmap(lambda k: jax.random.split(k)[0])(methods.rows_of(KEY, batch, "pgd"))
    rows = threat.over_rows(threat.linf())

    def total(x):
        logits = tiny_model().apply({"params": params, **state}, x)
        return jax.vmap(losses.cross_entropy)(logits, batch.target).sum()

    slope = jax.jit(jax.grad(total))
    x = rows.sample(starts, batch.image, eps)
    for count in range(9):
        moved = rows.project(x + jnp.sign(slope(x)) / 255, batch.image, eps)
        x = jnp.where((count < steps)[:, None, None, None], moved, x)
    np.testing.assert_allclose(views, x, atol=1e-6)
    untouched = np.asarray(steps) == 0
    assert 0 < untouched.sum() < 64
    np.testing.assert_array_equal(views[untouched], batch.image[untouched])


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["mpadvt", "maadvt"])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_one_trace_serves_all_draws_and_ranges(name, task):
    chex.clear_trace_counter()
    method = build(name, task, steps_range=(1, 9))
    params, model_state = variables()
    held, batch = method.init(params), make_batch(task=task)

    def loss(params, key, held):
        return method.loss(tiny_model().apply, params, model_state, batch, key, held)[0]

    step = jax.jit(chex.assert_max_traces(loss, n=1))
    other = jax.tree.map(lambda leaf: leaf, held)
    other["pgd"] = {**held["pgd"], "eps": jnp.asarray([0.2, 0.3]), "steps": jnp.asarray([1, 2])}
    values = [float(step(params, jax.random.key(i), h)) for i in range(4) for h in (held, other)]
    assert len(set(values)) == 8


def test_a_run_with_steps_of_its_own_for_each_row():
    """The runner: rows past their steps stay, costs are counted, more than there are is all."""
    x, y = jnp.asarray(make_batch().image), jnp.asarray(make_batch().target)
    weights = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
    objective = attacks.from_logits(
        lambda x: jnp.tanh(x.reshape(16, -1) - 0.5) @ weights, loss=losses.cross_entropy
    )
    attack = attacks.bim(objective, threat.linf(), num_steps=4, step_size=0.2, keep="last")
    steps = jnp.asarray([0, 1, 2, 3, 4, 9, *[2] * 10])

    @functools.partial(jax.jit, static_argnums=1)
    def run(steps, stop):
        return attacks.run(attack, KEY, x, y, EPS, stop=stop, num_steps=steps)

    for stop in ("budget", "success"):
        found = run(steps, stop)
        assert (found.num_steps <= jnp.minimum(steps, 4)).all()
        assert (found.x_adv[0] == x[0]).all()
    found = run(steps, "budget")
    np.testing.assert_array_equal(found.num_steps, jnp.minimum(steps, 4))
    np.testing.assert_array_equal(found.num_grads, jnp.minimum(steps, 4))
    for count in (1, 2, 3, 4):
        whole = run(jnp.full(16, count), "budget").x_adv
        rows = np.flatnonzero(np.minimum(steps, 4) == count)
        np.testing.assert_array_equal(found.x_adv[rows], whole[rows])
    with pytest.raises(ValueError, match="num_steps: expected integers"):
        attacks.run(attack, KEY, x, y, EPS, num_steps=jnp.ones(3, int))


def test_free_moves_its_perturbation_by_the_gradient_of_the_update():
    model, batch = tiny_model(), make_batch()
    optimizer = training.build_optimizer(OptimizerConfig(learning_rate=0.05), total_steps=20)
    method = build("free", replays=3)
    step = jax.jit(training.make_train_step(model, method, optimizer))
    state = start = training.init_state(model, method, optimizer, 0, SHAPE)
    params, stats, opt = start.params, start.model_state, start.opt_state
    delta = jnp.zeros_like(batch.image)

    def loss(params, delta, stats):
        images = jnp.clip(batch.image + delta, 0, 1)
        logits, new = model.apply({"params": params, **stats}, images, train=True)
        return jax.vmap(losses.cross_entropy)(logits, batch.target).mean(), new

    both = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    for _ in range(2):
        state, metrics = step(state, batch)
        for _ in range(3):
            (g, slope), stats = both(params, delta, stats)
            updates, opt = optimizer.update(g, opt, params)
            params = jax.tree.map(jnp.add, params, updates)
            delta = jnp.clip(delta + EPS * jnp.sign(slope), -EPS, EPS)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.method_state["delta"], delta, atol=1e-7)
    assert float(metrics["count"]) == 48
    assert int(state.step) == 2


def test_free_says_what_it_needs():
    method = methods.build(config("free"), "single")
    with pytest.raises(ValueError, match="free: the perturbation needs the shape"):
        method.init({})
    with pytest.raises(ValueError, match=r"for batches \(16, 4, 4, 1\), got a batch \(8"):
        run(build("free"), make_batch(8))
    for name in ("hat", "distillation"):
        with pytest.raises(ValueError, match=f"{name}: needs another model"):
            methods.build(config(name), "single").init({})


def test_weights_are_perturbed_along_the_gradient_of_the_loss():
    gamma = 0.02
    plain, found = result("pgd"), result("pgd", awp=gamma)
    params, state = variables()
    batch = make_batch()

    def move(w, g):
        if w.ndim < 2:
            return w
        return w + gamma * g * jnp.linalg.norm(w) / jnp.linalg.norm(g)

    moved = jax.tree.map(move, params, plain.gradient)
    # the images are those attacked at the weights that have not moved
    chex.assert_trees_all_close(found.views["views"], plain.views, atol=1e-6)

    def there(params):
        images = plain.views["pgd"]
        logits, _ = tiny_model().apply({"params": params, **state}, images, train=True)
        return jax.vmap(losses.cross_entropy)(logits, batch.target).mean()

    value, wanted = jax.jit(jax.value_and_grad(there))(moved)
    np.testing.assert_allclose(found.loss, value, rtol=1e-5)
    chex.assert_trees_all_close(found.gradient, wanted, rtol=1e-4, atol=1e-6)
    assert found.loss > plain.loss
    with pytest.raises(ValueError, match="awp: free attacks while it updates"):
        build("free", awp=gamma)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_distillation_learns_the_soft_labels_of_its_teacher(task):
    temperature = 5.0
    helper, batch = context().helper, make_batch(task=task)
    soft = helper.apply(helper.variables, batch.image) / temperature
    logits = outputs(batch.image) / temperature
    if task == "single":
        wanted = -(jax.nn.softmax(soft) * jax.nn.log_softmax(logits)).sum(-1)
    else:
        wanted = jax.vmap(losses.binary_cross_entropy)(logits, jax.nn.sigmoid(soft))
    found = result("distillation", task, temperature=temperature)
    np.testing.assert_allclose(found.loss, wanted.mean(), rtol=1e-5)
    wanted = jax.vmap(methods.get_task(task).loss)(logits, batch.target).mean()
    teacher = result("standard", task, temperature=temperature)
    np.testing.assert_allclose(teacher.loss, wanted, rtol=1e-5)


def test_the_gradient_penalty_of_a_linear_model_in_closed_form():
    """d CE / d x = W (p - onehot), so that the penalty is known, and so is its gradient."""
    weight = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)

    def apply(variables, x, train=False, rngs=None):
        logits = x.reshape(x.shape[0], -1) @ variables["params"]["w"]
        return (logits, {}) if train else logits

    batch = make_batch()._replace(valid=np.arange(16) < 12)

    def closed(w):
        logits = batch.image.reshape(16, -1) @ w
        rest = jax.nn.softmax(logits) - jax.nn.one_hot(batch.target, 3)
        penalty = jnp.sum((rest @ w.T) ** 2, -1)
        rows = jax.vmap(losses.cross_entropy)(logits, batch.target) + 0.3 * penalty
        return rows[:12].mean()

    method = build("gradient", gradient_weight=0.3)

    def loss(w):
        params = {"w": w}
        return method.loss(apply, params, {}, batch, KEY, method.init(params))[0]

    found, wanted = (jax.jit(jax.value_and_grad(f))(weight) for f in (loss, closed))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)


@pytest.mark.slow
def test_the_gradient_penalty_differentiates_the_networks_of_the_zoo_twice(x64):
    """Their own rules for convolutions and pooling: against finite differences of the penalty."""
    model = models.small_cnn(num_classes=3, width=2)
    x = jnp.asarray(RNG.uniform(size=(2, 8, 8, 1)))
    variables = models.random_variables(model, 0, x)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    label = jnp.asarray([0, 2])

    def penalty(kernel_scale):
        params = jax.tree.map(lambda w: w * kernel_scale, variables["params"])

        def total(x):
            logits, _ = model.apply({**variables, "params": params}, x, train=True)
            return jax.vmap(losses.cross_entropy)(logits, label).sum()

        return jnp.sum(jax.grad(total)(x) ** 2)

    at, h = jnp.asarray(1.1), 1e-5
    run = jax.jit(penalty)
    slope = (run(at + h) - run(at - h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(at), slope, rtol=1e-3)
