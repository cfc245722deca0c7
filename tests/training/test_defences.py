"""Defences: closed forms, official values, and what each must reduce to."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, models, threat, training
from advjax.config import ModelConfig, OptimizerConfig, TrainConfig
from advjax.training import methods
from advjax.training.methods._attacked import budgets
from tests.training.tiny import SHAPE, context, make_batch, tiny_model

EPS = 0.1
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def _variables():
    variables = tiny_model().init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    stats = {"mean": jnp.full(8, 0.05), "var": jnp.full(8, 0.5)}  # not those of any batch
    return variables["params"], {"batch_stats": stats}


def _config(name, **fields):
    fixed = {"eps": EPS, "attack_steps": 2, "steps_range": (1, 3), "batch_size": 16}
    return TrainConfig(method=name, **{**fixed, **fields})


class Result(NamedTuple):
    """All that one program says of a method on the tiny model."""

    views: dict
    loss: jax.Array
    gradient: dict
    aux: methods.Aux


def _run(method, batch=None, task="single"):
    """Prepare, then differentiate the objective, which is what `method.loss` is made of."""
    params, state = _variables()
    batch = make_batch(task=task) if batch is None else batch

    @jax.jit
    def program(params, batch, held):
        fixed = (state, batch, KEY, held)
        views = method.prepare(tiny_model().apply, params, *fixed)

        def loss(params):
            return method.objective(tiny_model().apply, params, *fixed, views)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return Result(views, value, gradient, aux)

    return program(params, batch, method.init(params))


@functools.cache
def _result(name, task="single", **fields):
    return _run(_build(name, task, **fields), task=task)


def _outputs(images):
    """Return the logits of training mode."""
    params, state = _variables()
    return tiny_model().apply({"params": params, **state}, images, train=True)[0]


def _build(name, task="single", **fields):
    return methods.build(_config(name, **fields), task, context())


def _same(a, b, rtol=1e-5):
    """Loss, gradient and running statistics agree."""
    np.testing.assert_allclose(a.loss, b.loss, rtol=rtol)
    chex.assert_trees_all_close(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(a.aux.model_state, b.aux.model_state, rtol=1e-5)


# --- losses


@pytest.mark.golden
@pytest.mark.parametrize("net", ["net_rgb_7class", "net_gray_2class"])
def test_trades_and_mart_of_the_official_code(golden_dir, x64, net):
    golden = np.load(golden_dir / f"{net}.npz")
    columns = [jnp.asarray(golden[f"loss/{n}"]) for n in ("logits", "logits_adv", "y")]
    for name in ("trades", "mart"):
        rows = jax.vmap(lambda *row, name=name: getattr(losses, name)(*row, beta=6.0))(*columns)
        np.testing.assert_allclose(rows.mean(), golden[f"loss/{name}_beta6"], rtol=1e-10)


def _logits(classes, seed=0):
    rng = np.random.default_rng(seed)
    clean, moved = rng.normal(size=(2, 30, classes)) * 2
    return jnp.asarray(clean), jnp.asarray(moved), jnp.asarray(rng.integers(0, classes, 30))


def test_mart_of_two_classes_is_twice_the_cross_entropy(x64):
    clean, moved, labels = _logits(2)
    plain = jax.vmap(lambda *row: losses.mart(*row, beta=0.0))(clean, moved, labels)
    entropy = jax.vmap(losses.cross_entropy)(moved, labels)
    p = np.exp(-np.asarray(entropy))
    # -log(1.0001 - p'_k) is -log(p'_y + 0.0001)
    np.testing.assert_allclose(plain, entropy - np.log(p + 1e-4), rtol=1e-9)
    np.testing.assert_allclose(plain, 2 * entropy, atol=2e-4 / p.min())
    whole = jax.vmap(lambda *row: losses.mart(*row, beta=3.0))(clean, moved, labels)
    kl = jax.vmap(losses.kl)(moved, clean)
    q = np.exp(-np.asarray(jax.vmap(losses.cross_entropy)(clean, labels)))
    np.testing.assert_allclose(whole - plain, 3 * kl * (1.0000001 - q), rtol=1e-6)


def test_mart_without_an_attack_and_of_confident_rows(x64):
    clean, _, labels = _logits(4)
    with_kl = jax.vmap(lambda *row: losses.mart(*row, beta=6.0))(clean, clean, labels)
    without = jax.vmap(lambda *row: losses.mart(*row, beta=0.0))(clean, clean, labels)
    np.testing.assert_allclose(with_kl, without, atol=1e-9)
    sure, lost = jnp.asarray([40.0, 0.0, 0.0]), jnp.asarray([0.0, 1.0, 0.0])
    label = jnp.asarray(0)
    mart = jax.jit(losses.mart)
    weight = mart(sure, lost, label, beta=1.0) - mart(sure, lost, label, beta=0.0)
    assert weight < 1e-6  # p_y = 1: what is right for sure feels nothing


def test_mart_of_one_label_is_mart_of_two_classes(x64):
    _, _, labels = _logits(2)
    z, moved = (jnp.asarray(RNG.normal(size=(30, 1)) * 3) for _ in range(2))
    one = jax.vmap(lambda *row: losses.mart_multilabel(*row, beta=6.0))(z, moved, labels[:, None])
    pair = [jnp.concatenate([jnp.zeros_like(v), v], 1) for v in (z, moved)]
    two = jax.vmap(lambda *row: losses.mart(*row, beta=6.0))(*pair, labels)
    np.testing.assert_allclose(one, two, rtol=1e-10)


def test_several_labels_are_the_mean_of_those_that_are_known(x64):
    z, moved = jnp.asarray(RNG.normal(size=(2, 4)))
    labels = jnp.asarray([1, 0, -1, 1])
    whole = losses.mart_multilabel(z, moved, labels)
    parts = [losses.mart_multilabel(z[i : i + 1], moved[i : i + 1], labels[i : i + 1])
             for i in (0, 1, 3)]  # fmt: skip
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-12)
    p, q = (np.asarray(jax.nn.sigmoid(v)) for v in (z, moved))
    wanted = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    np.testing.assert_allclose(losses.binary_kl(moved, z), wanted, rtol=1e-10)


def test_masks_differ_by_the_mean_of_their_pixels(x64):
    output, reference = jnp.asarray(RNG.normal(size=(2, 2, 3, 4)))
    task = methods.get_task("segmentation")
    rows = jax.vmap(losses.kl)(output.reshape(6, 4), reference.reshape(6, 4))
    np.testing.assert_allclose(methods.divergence(task)(output, reference), rows.mean(), rtol=1e-12)
    for name in ("mart", "maadvt"):
        with pytest.raises(ValueError, match=f"{name} knows tasks single, multi"):
            _build(name, "segmentation")


def test_detectors_have_no_probabilities_to_compare():
    for name in ("distillation", "hat", "maadvt", "mart", "trades"):
        with pytest.raises(ValueError, match=f"{name} compares probabilities.*use one of fast"):
            _build(name, "detection")
    with pytest.raises(ValueError, match="temperature: detectors have no softmax"):
        _build("standard", "detection", temperature=5.0)


# --- what each reduces to


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_trades_without_its_weight_is_clean_training(task):
    found = _result("trades", task, beta=0.0, batch_norm_update="clean")
    _same(found, _result("standard", task))


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_hat_without_its_helper_is_trades(task):
    """Loss, gradient, and the statistics, which helper examples never move."""
    found = _result("hat", task, hat_gamma=0.0, beta=2.0, batch_norm_update="both")
    _same(found, _result("trades", task, beta=2.0, batch_norm_update="both"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_maadvt_with_fixed_budgets_is_mart(task):
    """Four steps of 0.007 for every row."""
    found = _result("maadvt", task, steps_range=(4, 4), eps=0.03)
    _same(found, _result("mart", task, attack_steps=4, attack_step_size=0.007 / 0.03, eps=0.03))


def test_mpadvt_with_fixed_budgets_is_pgd_training():
    eps = 4 / 255
    drawn = _result("mpadvt", eps_range=(eps, eps), steps_range=(4, 4), adversarial_share=1.0)
    _same(drawn, _result("pgd", eps=eps, attack_steps=4, attack_step_size=0.25))


def test_free_of_one_replay_and_no_budget_is_plain_training():
    model = tiny_model()
    optimizer = training.build_optimizer(OptimizerConfig(learning_rate=0.2), total_steps=20)
    found = []
    for method in (_build("free", eps=0.0, replays=1), _build("standard")):
        step = jax.jit(training.make_train_step(model, method, optimizer))
        state = training.init_state(model, method, optimizer, 0, SHAPE)
        for i in range(3):
            state, _ = step(state, make_batch(seed=i))
        found.append((state.params, state.model_state, state.step))
    chex.assert_trees_all_equal(*found)


def test_fast_with_a_step_of_nothing_trains_on_random_noise():
    views = _result("fast", attack_step_size=0.0).views
    batch = make_batch()
    keys = methods.rows_of(KEY, batch, "rs_fgsm")
    # the start of the attack: its own key of each row, a uniform point of the ball
    starts = jax.vmap(lambda k: jax.random.split(k)[0])(keys)
    noise = threat.over_rows(threat.linf()).sample(starts, batch.image, jnp.full(16, EPS))
    np.testing.assert_allclose(views["rs_fgsm"], noise, atol=1e-7)


# --- what each is made of


def test_trades_attacks_the_divergence_from_a_start_of_noise():
    found, batch = _result("trades", beta=3.0), make_batch()
    params, state = _variables()
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
        _outputs(batch.image), _outputs(x), batch.target
    )
    np.testing.assert_allclose(found.loss, rows.mean(), rtol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["trades", "mart"])
def test_gradients_flow_into_both_outputs_and_not_through_the_attack(name):
    found, batch = _result(name), make_batch()
    params, state = _variables()

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
    found = _result("hat", task, hat_reach=3.0, hat_gamma=0.7, beta=0.0)
    helper, batch, views = context().helper, make_batch(task=task), found.views
    moved = views["adversarial"]
    np.testing.assert_allclose(views["further"], batch.image + 3 * (moved - batch.image), atol=1e-6)
    assert views["further"].min() < 0  # not clipped
    output = helper.apply(helper.variables, moved)
    label = output.argmax(-1) if task == "single" else (output > 0).astype(np.int32)
    np.testing.assert_array_equal(views["label"], label)
    loss = jax.vmap(methods.get_task(task).loss)
    clean = loss(_outputs(batch.image), batch.target).mean()
    far = loss(_outputs(views["further"]), views["label"]).mean()
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
    found = _budgets(_config("mpadvt"), 20_000)(KEY)
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
    draw = _budgets(_config("mpadvt"), 16, per="batch")
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
    params, state = _variables()
    batch = make_batch(64)
    method = _build("mpadvt", steps_range=(1, 9))
    views = np.asarray(_run(method, batch).views["pgd"])
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
    method = _build(name, task, steps_range=(1, 9))
    params, model_state = _variables()
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
    method = _build("free", replays=3)
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
    method = methods.build(_config("free"), "single")
    with pytest.raises(ValueError, match="free: the perturbation needs the shape"):
        method.init({})
    with pytest.raises(ValueError, match=r"for batches \(16, 4, 4, 1\), got a batch \(8"):
        _run(_build("free"), make_batch(8))
    for name in ("hat", "distillation"):
        with pytest.raises(ValueError, match=f"{name}: needs another model"):
            methods.build(_config(name), "single").init({})


def test_weights_are_perturbed_along_the_gradient_of_the_loss():
    gamma = 0.02
    plain, found = _result("pgd"), _result("pgd", awp=gamma)
    params, state = _variables()
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
        _build("free", awp=gamma)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_distillation_learns_the_soft_labels_of_its_teacher(task):
    temperature = 5.0
    helper, batch = context().helper, make_batch(task=task)
    soft = helper.apply(helper.variables, batch.image) / temperature
    logits = _outputs(batch.image) / temperature
    if task == "single":
        wanted = -(jax.nn.softmax(soft) * jax.nn.log_softmax(logits)).sum(-1)
    else:
        wanted = jax.vmap(losses.binary_cross_entropy)(logits, jax.nn.sigmoid(soft))
    found = _result("distillation", task, temperature=temperature)
    np.testing.assert_allclose(found.loss, wanted.mean(), rtol=1e-5)
    wanted = jax.vmap(methods.get_task(task).loss)(logits, batch.target).mean()
    teacher = _result("standard", task, temperature=temperature)
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

    method = _build("gradient", gradient_weight=0.3)

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


# --- normalised space


def test_normalised_space_with_a_std_of_one_is_pixel_space():
    found = _result("pgd", space="normalised", model=ModelConfig(std=1.0))
    chex.assert_trees_all_equal(found.views, _result("pgd").views)


def test_the_pixel_budget_of_a_channel_is_eps_times_its_std():
    std = np.asarray([0.0942, 0.1331, 0.1521])
    ball = threat.normalised("linf", std)
    x0 = jnp.asarray(RNG.uniform(0.3, 0.7, size=(2, 6, 6, 3)), jnp.float32)
    weights = jnp.asarray(RNG.normal(size=(108, 2)), jnp.float32)
    objective = attacks.from_logits(lambda x: x.reshape(2, -1) @ weights, loss=losses.cross_entropy)
    eps, step = 0.2, 0.07
    attack = attacks.pgd(objective, ball, num_steps=4, step_size_abs=step, keep="last")
    labels = jnp.asarray([0, 1])
    found = jax.jit(lambda x: attacks.run(attack, KEY, x, labels, eps, stop="budget", x_start=x))(
        x0
    )
    away = np.abs(found.x_adv - x0).max((0, 1, 2))
    np.testing.assert_allclose(away, eps * std, rtol=1e-4)
    # the same in normalised space, as the papers write it, without their clipping
    mean = np.asarray([0.7, 0.55, 0.49])
    z = z0 = (x0 - mean) / std

    def total(z):
        logits = (z * std + mean).reshape(2, -1) @ weights
        return jax.vmap(losses.cross_entropy)(logits, labels).sum()

    slope = jax.jit(jax.grad(total))
    for _ in range(4):
        z = jnp.clip(z + step * jnp.sign(slope(z)), z0 - eps, z0 + eps)
    np.testing.assert_allclose(found.x_adv, z * std + mean, atol=1e-5)
    np.testing.assert_allclose(found.distance, eps, rtol=1e-4)


# --- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "trades", "beta": -1.0}, "beta must not be negative"),
        ({"method": "hat", "hat_gamma": -1.0}, "gamma must not be negative"),
        ({"method": "mpadvt", "eps_range": (0.1, 0.01)}, "eps_range: expected 0 <= low <= high"),
        ({"method": "mpadvt", "eps_range": (0.1,)}, "eps_range: expected two numbers"),
        ({"method": "maadvt", "steps_range": (0, 3)}, "steps_range: expected 1 <= low <= high"),
        ({"method": "mpadvt", "adversarial_share": 0.0}, "adversarial_share: must be in"),
        ({"method": "mpadvt", "draw_per": "epoch"}, "draw_per: unknown 'epoch'"),
        ({"method": "free", "replays": 0}, "replays >= 1"),
        ({"method": "pgd", "awp": -0.1}, "awp: must not be negative"),
        ({"method": "distillation", "temperature": 0.0}, "temperature: must be positive"),
        ({"method": "gradient", "gradient_weight": -1.0}, "gradient_weight: must not be negative"),
        ({"method": "fast", "attack_step_size": -1.0}, "attack_step_size: must not be negative"),
        ({"method": "pgd", "space": "lab"}, "space: unknown 'lab'"),
        ({"method": "adversary"}, "method: unknown 'adversary'"),
    ],
)
def test_impossible_configs_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        methods.build(TrainConfig(**fields), "single")


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), [[0.1]]])
def test_a_std_that_is_none_is_refused(std):
    with pytest.raises(ValueError, match="std: expected a positive number"):
        threat.normalised("linf", std)
