"""Defences: closed forms, official values, and what each must reduce to."""

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


def _value_and_grad(method, batch=None, task="single", state=None):
    """Return loss, gradient and aux of a method on the tiny model."""
    params, model_state = _variables()
    batch = make_batch(task=task) if batch is None else batch
    state = method.init(params) if state is None else state

    def loss(params):
        return method.loss(tiny_model().apply, params, model_state, batch, KEY, state)

    (value, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, gradient, aux


def _build(name, task="single", **fields):
    return methods.build(_config(name, **fields), task, context())


def _same(a, b, rtol=1e-5):
    """Loss, gradient and running statistics agree."""
    np.testing.assert_allclose(a[0], b[0], rtol=rtol)
    chex.assert_trees_all_close(a[1], b[1], rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(a[2].model_state, b[2].model_state, rtol=1e-5)


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
    weight = losses.mart(sure, lost, label, beta=1.0) - losses.mart(sure, lost, label, beta=0.0)
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


# --- what each reduces to


@pytest.mark.parametrize("task", ["single", "multi"])
def test_trades_without_its_weight_is_clean_training(task):
    found = _value_and_grad(_build("trades", task, beta=0.0, batch_norm_update="clean"), task=task)
    _same(found, _value_and_grad(_build("standard", task), task=task))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_hat_without_its_helper_is_trades(task):
    found = _value_and_grad(_build("hat", task, hat_gamma=0.0, beta=2.0), task=task)
    _same(found, _value_and_grad(_build("trades", task, beta=2.0), task=task))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_maadvt_with_fixed_budgets_is_mart(task):
    """Four steps of 0.007 for every row."""
    fields = {"eps": 0.03, "batch_norm_update": "both"}
    drawn = _build("maadvt", task, steps_range=(4, 4), **fields)
    fixed = _build("mart", task, attack_steps=4, attack_step_size=0.007 / 0.03, **fields)
    _same(_value_and_grad(drawn, task=task), _value_and_grad(fixed, task=task))


def test_mpadvt_with_fixed_budgets_is_pgd_training():
    eps = 4 / 255
    drawn = _build("mpadvt", eps_range=(eps, eps), steps_range=(4, 4), adversarial_share=1.0)
    fixed = _build("pgd", eps=eps, attack_steps=4, attack_step_size=0.25)
    _same(_value_and_grad(drawn), _value_and_grad(fixed))


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
    method = _build("fast", attack_step_size=0.0)
    params, state = _variables()
    batch = make_batch()
    views = method.prepare(tiny_model().apply, params, state, batch, KEY, method.init(params))
    keys = methods.rows_of(KEY, batch, "rs_fgsm")
    # the start of the attack: its own key of each row, a uniform point of the ball
    starts = jax.vmap(lambda k: jax.random.split(k)[0])(keys)
    noise = threat.over_rows(threat.linf()).sample(starts, batch.image, jnp.full(16, EPS))
    np.testing.assert_allclose(views["rs_fgsm"], noise, atol=1e-7)


# --- what each is made of


def test_trades_attacks_the_divergence_from_a_start_of_noise():
    method = _build("trades", beta=3.0)
    params, state = _variables()
    batch, variables = make_batch(), {"params": params, **state}
    apply = tiny_model().apply
    x_adv = method.prepare(apply, params, state, batch, KEY, method.init(params))["adversarial"]
    keys = methods.rows_of(KEY, batch, "pgd")
    clean = apply(variables, batch.image)
    x = batch.image + 0.001 * jax.vmap(lambda k: jax.random.normal(k, SHAPE))(keys)
    x = jnp.clip(x, 0, 1)

    def total(x):
        return jax.vmap(losses.kl)(apply(variables, x), clean).sum()

    slope = jax.jit(jax.grad(total))
    for _ in range(2):
        x = x + 1.25 * EPS * jnp.sign(slope(x))  # 2.5 / 2 steps
        x = jnp.clip(jnp.clip(x, batch.image - EPS, batch.image + EPS), 0, 1)
    np.testing.assert_allclose(x_adv, x, atol=1e-6)
    outputs = [apply(variables, v, train=True)[0] for v in (batch.image, x)]
    rows = jax.vmap(lambda *row: losses.trades(*row, beta=3.0))(*outputs, batch.target)
    np.testing.assert_allclose(_value_and_grad(method)[0], rows.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_gradients_flow_into_both_outputs_and_not_through_the_attack(name):
    method = _build(name)
    params, state = _variables()
    apply, batch = tiny_model().apply, make_batch()
    held = method.init(params)
    views = method.prepare(apply, params, state, batch, KEY, held)

    def beside(params):
        model = {"params": params, **state}
        outputs = [apply(model, v, train=True)[0] for v in (batch.image, views["adversarial"])]
        return jax.vmap(getattr(losses, name))(*outputs, batch.target).mean()

    chex.assert_trees_all_close(
        _value_and_grad(method)[1], jax.grad(beside)(params), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("task", ["single", "multi"])
def test_hat_labels_its_helper_examples_at_the_adversarial_ones(task):
    helper = context().helper
    method = _build("hat", task, hat_reach=3.0, hat_gamma=0.7, beta=0.0)
    params, state = _variables()
    apply, batch = tiny_model().apply, make_batch(task=task)
    views = method.prepare(apply, params, state, batch, KEY, method.init(params))
    moved = views["adversarial"]
    np.testing.assert_allclose(views["further"], batch.image + 3 * (moved - batch.image), atol=1e-6)
    assert views["further"].min() < 0  # not clipped
    output = helper.apply(helper.variables, moved)
    label = output.argmax(-1) if task == "single" else (output > 0).astype(np.int32)
    np.testing.assert_array_equal(views["label"], label)
    loss = methods.get_task(task).loss
    model = {"params": params, **state}
    clean = jax.vmap(loss)(apply(model, batch.image, train=True)[0], batch.target).mean()
    far = jax.vmap(loss)(apply(model, views["further"], train=True)[0], views["label"]).mean()
    np.testing.assert_allclose(_value_and_grad(method, task=task)[0], clean + 0.7 * far, rtol=1e-5)


def test_helper_examples_never_move_the_statistics():
    _, _, aux = _value_and_grad(_build("hat", batch_norm_update="both"))
    _, _, wanted = _value_and_grad(_build("trades", beta=2.5, batch_norm_update="both"))
    chex.assert_trees_all_close(aux.model_state, wanted.model_state, rtol=1e-5)


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


def test_rows_of_mpadvt_keep_to_their_own_budget_and_steps():
    method = _build("mpadvt", steps_range=(1, 9), eps_range=(0.01, 0.04))
    params, state = _variables()
    batch, held = make_batch(64), None
    held = method.init(params)
    views = method.prepare(tiny_model().apply, params, state, batch, KEY, held)["pgd"]
    found = methods.draw(methods.Draws((0, 1), (1, 1)), held["pgd"], KEY, batch, "pgd")
    eps, steps = (np.asarray(v) for v in found)
    away = np.abs(np.asarray(views) - batch.image).reshape(64, -1).max(1)
    assert (away <= eps + 1e-6).all()
    np.testing.assert_array_equal(np.asarray(views)[steps == 0], batch.image[steps == 0])
    assert (away[steps > 0] > 0).all()
    # by hand, one row at a time with a static number of steps
    objective = attacks.from_logits(
        lambda x: tiny_model().apply({"params": params, **state}, x), loss=losses.cross_entropy
    )
    keys = methods.rows_of(KEY, batch, "pgd")
    for count in (1, 5, 9):
        rows = np.flatnonzero(steps == count)[:2]
        attack = attacks.pgd(
            objective, threat.linf(), num_steps=count, step_size_abs=1 / 255, keep="last"
        )
        alone = attacks.run(attack, keys[rows], batch.image[rows], batch.target[rows],
                            eps[rows], stop="budget").x_adv  # fmt: skip
        np.testing.assert_allclose(np.asarray(views)[rows], alone, atol=1e-6)


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
    for stop in ("budget", "success"):
        found = attacks.run(attack, KEY, x, y, EPS, stop=stop, num_steps=steps)
        assert (found.num_steps <= jnp.minimum(steps, 4)).all()
        assert (found.x_adv[0] == x[0]).all()
    found = attacks.run(attack, KEY, x, y, EPS, stop="budget", num_steps=steps)
    np.testing.assert_array_equal(found.num_steps, jnp.minimum(steps, 4))
    np.testing.assert_array_equal(found.num_grads, jnp.minimum(steps, 4))
    for count in (1, 2, 3, 4):
        whole = attacks.run(
            attack, KEY, x, y, EPS, stop="budget", num_steps=jnp.full(16, count)
        ).x_adv
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
    for _ in range(2):
        state, metrics = step(state, batch)
        for _ in range(3):

            def loss(params, delta, stats=stats):
                images = jnp.clip(batch.image + delta, 0, 1)
                logits, new = model.apply({"params": params, **stats}, images, train=True)
                return jax.vmap(losses.cross_entropy)(logits, batch.target).mean(), new

            (g, slope), stats = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, delta)
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
        _value_and_grad(_build("free"), make_batch(8))
    for name in ("hat", "distillation"):
        with pytest.raises(ValueError, match=f"{name}: needs another model"):
            methods.build(_config(name), "single").init({})


def test_weights_are_perturbed_along_the_gradient_of_the_loss():
    gamma = 0.02
    plain, wrapped = _build("pgd"), _build("pgd", awp=gamma)
    params, _ = _variables()
    gradient = _value_and_grad(plain)[1]

    def move(w, g):
        if w.ndim < 2:
            return w
        return w + gamma * g * jnp.linalg.norm(w) / jnp.linalg.norm(g)

    moved = jax.tree.map(move, params, gradient)
    found = _value_and_grad(wrapped)
    # the images are those attacked at the weights that have not moved
    apply, (_, state) = tiny_model().apply, _variables()
    views = plain.prepare(apply, params, state, make_batch(), KEY, plain.init(params))

    def there(params):
        return plain.objective(apply, params, state, make_batch(), KEY, plain.init(params), views)[
            0
        ]

    value, wanted = jax.value_and_grad(there)(moved)
    np.testing.assert_allclose(found[0], value, rtol=1e-5)
    chex.assert_trees_all_close(found[1], wanted, rtol=1e-4, atol=1e-6)
    assert value > _value_and_grad(plain)[0]
    with pytest.raises(ValueError, match="awp: free attacks while it updates"):
        _build("free", awp=gamma)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_distillation_learns_the_soft_labels_of_its_teacher(task):
    temperature = 5.0
    method = _build("distillation", task, temperature=temperature)
    params, state = _variables()
    helper, batch = context().helper, make_batch(task=task)
    soft = helper.apply(helper.variables, batch.image) / temperature
    logits = tiny_model().apply({"params": params, **state}, batch.image, train=True)[0]
    if task == "single":
        wanted = -(jax.nn.softmax(soft) * jax.nn.log_softmax(logits / temperature)).sum(-1)
    else:
        wanted = jax.vmap(losses.binary_cross_entropy)(logits / temperature, jax.nn.sigmoid(soft))
    np.testing.assert_allclose(_value_and_grad(method, task=task)[0], wanted.mean(), rtol=1e-5)
    teacher = _build("standard", task, temperature=temperature)
    loss = methods.get_task(task).loss
    wanted = jax.vmap(loss)(logits / temperature, batch.target).mean()
    np.testing.assert_allclose(_value_and_grad(teacher, task=task)[0], wanted, rtol=1e-5)


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

    np.testing.assert_allclose(loss(weight), closed(weight), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(weight), jax.grad(closed)(weight), rtol=1e-4)


def test_the_gradient_penalty_differentiates_the_networks_of_the_zoo_twice():
    """Their own rules for convolutions and pooling: against finite differences of the penalty."""
    model = models.small_cnn(num_classes=3, width=2)
    x = jnp.asarray(RNG.uniform(size=(2, 8, 8, 1)), jnp.float32)
    variables = models.random_variables(model, 0, x)
    label = jnp.asarray([0, 2])

    def penalty(kernel_scale):
        params = jax.tree.map(lambda w: w * kernel_scale, variables["params"])

        def total(x):
            logits, _ = model.apply({**variables, "params": params}, x, train=True)
            return jax.vmap(losses.cross_entropy)(logits, label).sum()

        return jnp.sum(jax.grad(total)(x) ** 2)

    at, h = jnp.float32(1.1), 1e-2
    run = jax.jit(penalty)
    slope = (run(at + h) - run(at - h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(at), slope, rtol=2e-2)


# --- normalised space


def test_normalised_space_with_a_std_of_one_is_pixel_space():
    model = ModelConfig(std=1.0)
    a = _value_and_grad(_build("pgd", space="normalised", model=model))
    b = _value_and_grad(_build("pgd"))
    chex.assert_trees_all_equal(a[1], b[1])


def test_the_pixel_budget_of_a_channel_is_eps_times_its_std():
    std = np.asarray([0.0942, 0.1331, 0.1521])
    ball = threat.normalised("linf", std)
    x0 = jnp.asarray(RNG.uniform(0.3, 0.7, size=(2, 6, 6, 3)), jnp.float32)
    weights = jnp.asarray(RNG.normal(size=(108, 2)), jnp.float32)
    objective = attacks.from_logits(lambda x: x.reshape(2, -1) @ weights, loss=losses.cross_entropy)
    eps, step = 0.2, 0.07
    attack = attacks.pgd(objective, ball, num_steps=4, step_size_abs=step, keep="last")
    found = attacks.run(attack, KEY, x0, jnp.asarray([0, 1]), eps, stop="budget", x_start=x0)
    away = np.abs(found.x_adv - x0).max((0, 1, 2))
    np.testing.assert_allclose(away, eps * std, rtol=1e-4)
    # the same in normalised space, as the papers write it, without their clipping
    mean = np.asarray([0.7, 0.55, 0.49])
    z = z0 = (x0 - mean) / std

    def total(z):
        logits = (z * std + mean).reshape(2, -1) @ weights
        return jax.vmap(losses.cross_entropy)(logits, jnp.asarray([0, 1])).sum()

    for _ in range(4):
        z = jnp.clip(z + step * jnp.sign(jax.grad(total)(z)), z0 - eps, z0 + eps)
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
