"""The training step under every transform that it promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from advjax import mesh, models, training
from advjax.config import OptimizerConfig, TrainConfig
from advjax.training import methods
from tests.training.tiny import SHAPE, context, make_batch, tiny_model

STEPS = 5
OPTIMIZER = training.build_optimizer(OptimizerConfig(learning_rate=0.2), total_steps=20)


def _method(name, task="single"):
    config = TrainConfig(
        method=name, eps=0.1, attack_steps=2, eps_range=(0.01, 0.1), steps_range=(1, 2),
        batch_size=16, gradient_weight=0.1,
    )  # fmt: skip
    return methods.build(config, task, context())


def _setup(name="standard", *, axis_name=None, task="single", ema=None, seed=0):
    model = tiny_model(axis_name=axis_name)
    method = _method(name, task)
    step = training.make_train_step(model, method, OPTIMIZER, axis_name=axis_name, ema=ema)
    state = training.init_state(model, method, OPTIMIZER, seed, SHAPE, ema=ema is not None)
    return step, state


def _run(step, state, batches):
    metrics = None
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


def _batches(count=STEPS, task="single"):
    return [make_batch(seed=i, task=task) for i in range(count)]


def _close(a, b, atol=1e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    chex.assert_trees_all_close(a, b, atol=atol, rtol=0)


@pytest.mark.slow
class StepVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("standard", "pgd")
    def test_jit_changes_nothing(self, name):
        step, state = _setup(name)
        wanted, wanted_metrics = _run(jax.jit(step), state, _batches(2))
        found, metrics = _run(self.variant(step), state, _batches(2))
        _close(found, wanted)
        _close(metrics, wanted_metrics, atol=1e-4)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "task"), [*((name, "single") for name in sorted(methods.METHODS)), ("pgd", "multi")]
)
def test_every_method_learns(name, task):
    step, state = _setup(name, task=task)
    step, batch = jax.jit(step), make_batch(task=task)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]) / float(metrics["count"]))
    # the soft labels of a teacher leave nearly all of their entropy at that temperature
    wanted = 1 if name == "distillation" else 0.8
    assert losses[-1] < wanted * losses[0]
    assert int(state.step) == 30


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["standard", "pgd"])
def test_padding_contributes_exactly_zero(name):
    """Without batch-norm's statistics in the way: a linear model, padded with garbage."""

    def apply(variables, x, train=False, rngs=None):
        del rngs
        logits = x.reshape(x.shape[0], -1) @ variables["params"]["kernel"]
        return (logits, {}) if train else logits

    def init(key, x):
        return {"params": {"kernel": jax.random.normal(key, (x[0].size, 3))}}

    model = tiny_model()._replace(init=init, apply=apply)
    method = _method(name)
    step = jax.jit(training.make_train_step(model, method, OPTIMIZER))
    state = training.init_state(model, method, OPTIMIZER, 0, SHAPE)
    full = make_batch(8)
    garbage = make_batch(8, seed=3)
    garbage.image[:] = np.nan
    garbage.target[:] = 77
    padded = jax.tree.map(lambda a, b: np.concatenate([a, b]), full, garbage)
    padded = padded._replace(valid=np.arange(16) < 8)
    a, metrics_a = step(state, full)
    b, metrics_b = step(state, padded)
    _close(b, a, atol=1e-7)
    _close(metrics_b, metrics_a, atol=1e-5)
    nothing = full._replace(valid=np.zeros(8, bool))
    c, metrics_c = step(state, nothing)
    assert float(metrics_c["loss"]) == 0
    assert float(metrics_c["count"]) == 0
    assert float(metrics_c["grad_norm"]) == 0
    chex.assert_tree_all_finite(c.params)


def test_content_of_padding_rows_never_matters():
    step, state = _setup("pgd")
    step = jax.jit(step)
    one, two = make_batch(), make_batch()
    valid = np.arange(16) < 12
    two.image[12:] = 0.123
    two.target[12:] = 1
    a = step(state, one._replace(valid=valid))
    b = step(state, two._replace(valid=valid))
    chex.assert_trees_all_equal(a, b)


@pytest.mark.slow
def test_vmap_over_seeds_and_learning_rates_equals_separate_runs():
    seeds, rates = [3, 4, 5], [0.05, 0.1, 0.4]
    model, method = tiny_model(), _method("pgd")
    step = training.make_train_step(model, method, OPTIMIZER)

    def start(seed, rate):
        state = training.init_state(model, method, OPTIMIZER, seed, SHAPE)
        return state._replace(opt_state=training.set_learning_rate(state.opt_state, rate))

    states = jax.vmap(start)(jnp.asarray(seeds, jnp.uint32), jnp.asarray(rates))
    many = jax.jit(jax.vmap(step, in_axes=(0, None)))
    together, _ = _run(many, states, _batches())
    single = jax.jit(step)
    for i, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        alone, _ = _run(single, start(seed, rate), _batches())
        _close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone)
    kernels = together.params["first"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])


def test_learning_rates_seeds_and_budgets_need_no_new_trace():
    model, method = tiny_model(), _method("pgd")
    chex.clear_trace_counter()
    step = training.make_train_step(model, method, OPTIMIZER)
    step = jax.jit(chex.assert_max_traces(step, n=1))
    for seed, rate, eps in [(0, 0.1, 0.1), (1, 0.3, 0.05), (2, 1.0, 0.2)]:
        state = training.init_state(model, method, OPTIMIZER, seed, SHAPE)
        state = state._replace(
            opt_state=training.set_learning_rate(state.opt_state, rate),
            method_state={"pgd": jnp.float32(eps)},
        )
        _run(step, state, _batches(2))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_pmap_with_an_axis_name_equals_one_device(mode):
    """Gradients, metrics and the statistics of batch-norm are those of the whole batch."""
    devices = 4
    config = TrainConfig(method="pgd", eps=0.1, attack_steps=2, batch_norm_attack=mode)
    method = methods.build(config, "single")
    one = training.make_train_step(tiny_model(), method, OPTIMIZER)
    many = training.make_train_step(
        tiny_model(axis_name="batch"), method, OPTIMIZER, axis_name="batch"
    )
    state = training.init_state(tiny_model(), method, OPTIMIZER, 0, SHAPE)
    wanted, wanted_metrics = _run(jax.jit(one), state, _batches())
    mapped = jax.pmap(many, axis_name="batch", devices=jax.devices()[:devices])
    copies = jax.tree.map(lambda a: jnp.stack([a] * devices), state)
    parts = [jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), b) for b in _batches()]
    found, metrics = _run(mapped, copies, parts)
    for device in range(devices):
        _close(jax.tree.map(lambda a, d=device: a[d], found), wanted)
        _close(jax.tree.map(lambda a, d=device: a[d], metrics), wanted_metrics, atol=1e-4)


def test_pmap_weighs_devices_by_their_valid_rows():
    one, state = _setup("standard")
    many, _ = _setup("standard", axis_name="batch")
    batch = make_batch()._replace(valid=np.arange(16) < 5)
    wanted, _ = jax.jit(one)(state, batch)
    copies = jax.tree.map(lambda a: jnp.stack([a] * 4), state)
    parts = jax.tree.map(lambda a: a.reshape(4, 4, *a.shape[1:]), batch)
    found, _ = jax.pmap(many, axis_name="batch", devices=jax.devices()[:4])(copies, parts)
    _close(jax.tree.map(lambda a: a[0], found), wanted)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["standard", "pgd"])
def test_a_mesh_of_eight_devices_equals_one(name):
    step, state = _setup(name, ema=0.9)
    wanted, wanted_metrics = _run(jax.jit(step), state, _batches())
    devices = mesh.data_mesh(8)
    whole, rows = mesh.replicated(devices), mesh.sharded(devices)
    sharded = jax.jit(
        step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0
    )
    found, metrics = _run(sharded, jax.device_put(state, whole), _batches())
    _close(found, wanted)
    _close(metrics, wanted_metrics, atol=1e-4)
    assert len(found.params["first"]["kernel"].sharding.device_set) == 8


@pytest.mark.slow
def test_a_mesh_trains_a_convolutional_network_as_one_device():
    """The zoo's own gradient rule of convolutions and its batch-norm, under an attack."""
    shape = (8, 8, 3)
    model, method = models.small_cnn(num_classes=3, width=4), _method("pgd")
    step = training.make_train_step(model, method, OPTIMIZER)
    state = jax.jit(lambda: training.init_state(model, method, OPTIMIZER, 0, shape))()
    batches = [make_batch(16, seed=i, shape=shape) for i in range(STEPS)]
    wanted, _ = _run(jax.jit(step), state, batches)
    devices = mesh.data_mesh(8)
    whole, rows = mesh.replicated(devices), mesh.sharded(devices)
    sharded = jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole))
    found, _ = _run(sharded, jax.device_put(state, whole), batches)
    _close(found, wanted)


def test_donation_reuses_the_state():
    step, state = _setup("standard", ema=0.9)
    jitted = jax.jit(step, donate_argnums=0)
    new, _ = jitted(state, make_batch())
    assert state.params["first"]["kernel"].is_deleted()
    jitted(new, make_batch())


def test_the_same_state_makes_the_same_step_and_the_next_one_another_start():
    step, state = _setup("pgd")
    step = jax.jit(step)
    batch = make_batch()
    a, first = step(state, batch)
    b, again = step(state, batch)
    chex.assert_trees_all_equal(a, b)
    chex.assert_trees_all_equal(first, again)
    _, other = step(state._replace(step=state.step + 1), batch)
    assert float(other["loss"]) != float(first["loss"])


def test_order_of_rows_does_not_matter_for_an_attack():
    step, state = _setup("pgd")
    step = jax.jit(step)
    batch = make_batch()
    order = np.random.default_rng(0).permutation(16)
    a, _ = step(state, batch)
    b, _ = step(state, jax.tree.map(lambda x: x[order], batch))
    _close(b.params, a.params, atol=1e-6)


def test_copies_of_an_example_get_keys_of_their_own():
    ids = jnp.asarray([5, 7, 5, 5, 7])
    keys = jax.random.key_data(training.unique_keys(jax.random.key(0), ids))
    assert len({tuple(k) for k in np.asarray(keys).tolist()}) == 5
    alone = jax.random.key_data(training.unique_keys(jax.random.key(0), ids[1:3]))
    np.testing.assert_array_equal(alone[0], keys[1])
    np.testing.assert_array_equal(alone[1], keys[0])  # the first copy of 5 in its batch


def test_augmentation_sees_keys_of_rows_and_changes_the_images():
    seen = []

    def augment(keys, images):
        seen.append((keys.shape, images.shape))
        noise = jax.vmap(lambda k, i: jax.random.uniform(k, i.shape))(keys, images)
        return 0.5 * images + 0.5 * noise

    model, method = tiny_model(), _method("standard")
    plain = training.make_train_step(model, method, OPTIMIZER)
    noisy = training.make_train_step(model, method, OPTIMIZER, augment=augment)
    state = training.init_state(model, method, OPTIMIZER, 0, SHAPE)
    _, a = jax.jit(plain)(state, make_batch())
    _, b = jax.jit(noisy)(state, make_batch())
    assert seen == [((16,), (16, *SHAPE))]
    assert float(a["loss"]) != float(b["loss"])


def test_the_moving_average_follows_its_definition():
    decay = 0.15  # above 1/10, 2/11: the warm-up decides the first two steps, the decay the third
    step, state = _setup("standard", ema=decay)
    step = jax.jit(step)
    average = state.params
    for number, batch in enumerate(_batches(3)):
        state, _ = step(state, batch)
        d = min(decay, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * p, average, state.params)
    _close(state.ema["params"], average, atol=1e-6)
    variables = training.eval_variables(state)
    assert variables["params"] is state.ema["params"]
    assert variables["batch_stats"] is state.ema["model_state"]["batch_stats"]


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_an_impossible_average_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema: must be in \(0, 1\)"):
        training.make_train_step(tiny_model(), _method("standard"), OPTIMIZER, ema=decay)


def test_any_optax_transformation_serves():
    model, method = tiny_model(), _method("standard")
    optimizer = optax.adam(1e-2)
    step = jax.jit(training.make_train_step(model, method, optimizer))
    state = training.init_state(model, method, optimizer, 0, SHAPE)
    state, first = step(state, make_batch())
    for _ in range(20):
        state, metrics = step(state, make_batch())
    assert float(metrics["loss"]) < float(first["loss"])
