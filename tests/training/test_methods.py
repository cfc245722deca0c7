"""Training methods: shares of the loss, the inner attack, and each batch-norm policy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, threat
from advjax.config import TrainConfig
from advjax.training import methods
from tests.training.tiny import SHAPE, make_batch, tiny_model

EPS = 0.1
KEY = jax.random.key(0)


def _variables(model):
    variables = model.init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    stats = {"mean": jnp.full(8, 0.05), "var": jnp.full(8, 0.5)}  # not those of any batch
    return variables["params"], {"batch_stats": stats}


def _config(name, **fields):
    return TrainConfig(method=name, eps=EPS, attack_steps=2, **fields)


def _loss(name, task="single", model=None, batch=None, **fields):
    model = model or tiny_model()
    method = methods.build(_config(name, **fields), task)
    params, state = _variables(model)
    batch = batch or make_batch(task=task)
    return method.loss(model.apply, params, state, batch, KEY, method.init(params))


def _attacked(name, *, train=False, steps=2):
    """What the inner attack must have made, written out by hand."""
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    variables = {"params": params, **state}

    def logits(x):
        return model.apply(variables, x, train=True)[0] if train else model.apply(variables, x)

    objective = attacks.from_logits(logits, loss=losses.cross_entropy)
    if name == "fgsm":
        attack = attacks.fgsm(objective, threat.linf())
    else:
        attack = attacks.pgd(
            objective, threat.linf(), num_steps=steps, step_size=2.5 / steps, keep="last"
        )
    inner = methods.Inner(name, lambda o: attack, EPS)
    keys = methods.rows_of(KEY, batch, inner.name)
    return attacks.run(attack, keys, batch.image, batch.target, EPS, stop="budget").x_adv


def _train_forward(images):
    """Return mean cross entropy in training mode, and the running statistics afterwards."""
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    logits, new = model.apply({"params": params, **state}, images, train=True)
    return jnp.mean(jax.vmap(losses.cross_entropy)(logits, batch.target)), new["batch_stats"]


def test_standard_is_the_mean_loss_of_clean_images():
    loss, aux = _loss("standard")
    wanted, stats = _train_forward(make_batch().image)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    chex.assert_trees_all_close(aux.model_state["batch_stats"], stats)
    assert aux.metrics["loss"].shape == (16,)


@pytest.mark.sample(1)
@pytest.mark.parametrize("mode", ["eval", "batch"])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_adversarial_methods_descend_the_loss_of_attacked_images(name, mode):
    loss, aux = _loss(name, batch_norm_attack=mode)
    wanted, stats = _train_forward(_attacked(name, train=mode == "batch"))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    chex.assert_trees_all_close(aux.model_state["batch_stats"], stats, rtol=1e-5)
    clean, _ = _loss("standard")
    assert loss > clean


def test_the_two_attack_modes_differ():
    evaluated, _ = _loss("pgd", batch_norm_attack="eval")
    batched, _ = _loss("pgd", batch_norm_attack="batch")
    assert abs(float(evaluated) - float(batched)) > 1e-4


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mixed"])
@pytest.mark.parametrize("update", ["clean", "adversarial", "both"])
def test_each_policy_updates_the_statistics_that_it_names(name, update):
    _, aux = _loss(name, batch_norm_update=update)
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    attacked = [name] if name != "mixed" else ["fgsm", "pgd"]
    images = [batch.image] if update in ("clean", "both") else []
    images += [_attacked(n) for n in attacked] if update in ("adversarial", "both") else []
    for image in images:
        _, state = model.apply({"params": params, **state}, image, train=True)
    chex.assert_trees_all_close(aux.model_state, state, rtol=1e-5)


def test_the_policy_of_statistics_does_not_change_the_loss():
    found = [_loss("pgd", batch_norm_update=u)[0] for u in ("clean", "adversarial", "both")]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_attacking_leaves_no_trace_in_the_statistics():
    """`batch` mode computes statistics inside the attack and throws them away."""
    _, aux = _loss("pgd", batch_norm_attack="batch", batch_norm_update="clean")
    _, stats = _train_forward(make_batch().image)
    chex.assert_trees_all_close(aux.model_state["batch_stats"], stats, rtol=1e-6)


def test_mixed_is_thirds_of_clean_fgsm_and_pgd():
    loss, aux = _loss("mixed")
    parts = [_train_forward(x)[0] for x in (make_batch().image, *map(_attacked, ("fgsm", "pgd")))]
    np.testing.assert_allclose(loss, np.mean(parts), rtol=1e-5)
    assert {"accuracy_clean", "accuracy_fgsm", "accuracy_pgd"} <= set(aux.metrics)


def test_mixed_takes_other_shares():
    task = methods.get_task("single")
    config = _config("mixed")
    inners = (methods.one_step(config), methods.iterated(config))
    shares = {"clean": 0.5, "fgsm": 0.5, "pgd": 0.0}
    method = methods.mixed(task, inners, weights=shares)
    model = tiny_model()
    params, state = _variables(model)
    loss, _ = method.loss(model.apply, params, state, make_batch(), KEY, method.init(params))
    parts = [_train_forward(x)[0] for x in (make_batch().image, _attacked("fgsm"))]
    np.testing.assert_allclose(loss, np.mean(parts), rtol=1e-5)


def test_the_gradient_does_not_pass_through_the_attack():
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    method = methods.build(_config("pgd"), "single")

    def through(p):
        return method.loss(model.apply, p, state, batch, KEY, method.init(p))[0]

    fixed = _attacked("pgd")

    def beside(p):
        logits, _ = model.apply({"params": p, **state}, fixed, train=True)
        return jnp.mean(jax.vmap(losses.cross_entropy)(logits, batch.target))

    chex.assert_trees_all_close(jax.grad(through)(params), jax.grad(beside)(params), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "update", "calls"),
    [
        ("standard", "both", ["train"]),
        ("pgd", "adversarial", ["eval", "train"]),
        ("pgd", "clean", ["eval", "train", "train"]),
        ("mixed", "adversarial", ["eval"] * 2 + ["train"] * 3),
    ],
)
def test_no_version_is_computed_in_vain(name, update, calls):
    seen = []
    model = tiny_model(calls=seen)
    method = methods.build(_config(name, batch_norm_update=update), "single")
    params, state = _variables(model)

    def loss(p):
        return method.loss(model.apply, p, state, make_batch(), KEY, method.init(p))

    jaxpr = jax.make_jaxpr(loss)(params)
    assert sorted(set(seen)) == sorted(set(calls))
    assert seen.count("train") == calls.count("train")
    assert jaxpr.jaxpr.outvars


def test_several_labels_use_the_binary_loss():
    loss, aux = _loss("standard", task="multi")
    model, batch = tiny_model(), make_batch(task="multi")
    params, state = _variables(model)
    logits, _ = model.apply({"params": params, **state}, batch.image, train=True)
    wanted = jnp.mean(jax.vmap(losses.binary_cross_entropy)(logits, batch.target))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    right = np.mean((np.asarray(logits) > 0) == (batch.target > 0))
    np.testing.assert_allclose(np.mean(aux.metrics["accuracy"]), right, rtol=1e-5)
    attacked, _ = _loss("pgd", task="multi")
    assert attacked > loss


def test_unknown_labels_are_left_out_of_loss_and_accuracy():
    batch = make_batch(task="multi")
    target = batch.target.copy()
    target[:, 0] = -1
    _, aux = _loss("standard", task="multi", batch=batch._replace(target=target))
    model = tiny_model()
    params, state = _variables(model)
    logits, _ = model.apply({"params": params, **state}, batch.image, train=True)
    right = np.mean((np.asarray(logits)[:, 1:] > 0) == (target[:, 1:] > 0))
    np.testing.assert_allclose(np.mean(aux.metrics["accuracy"]), right, rtol=1e-5)


@pytest.mark.slow
def test_budgets_are_traced():
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    method = methods.build(_config("pgd"), "single")

    def loss(eps):
        return method.loss(model.apply, params, state, batch, KEY, {"pgd": eps})[0]

    found = jax.vmap(loss)(jnp.asarray([0.0, 0.05, 0.1]))
    clean, _ = _loss("standard")
    np.testing.assert_allclose(found[0], clean, rtol=1e-5)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacked_images_stay_in_the_ball(norm):
    model, batch = tiny_model(), make_batch()
    params, state = _variables(model)
    inner = methods.iterated(_config("pgd", norm=norm))
    task = methods.get_task("single")
    variables = {"params": params, **state}
    x = methods.perturb(inner, task, model.apply, variables, batch, key=KEY, eps=EPS)
    delta = np.asarray(x - batch.image).reshape(16, -1)
    sizes = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert sizes.max() <= EPS + 1e-6
    assert sizes.min() > 0
    assert x.min() >= 0
    assert x.max() <= 1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"method": "nothing"}, "method: unknown 'nothing'; use one of .*fgsm, .*mixed, .*trades"),
        ({"norm": "l7"}, "norm: unknown 'l7'"),
        ({"eps": 0.0}, "eps: must be positive"),
        ({"eps": float("nan")}, "eps: must be positive"),
        ({"eps": 8.0}, "eps: 8.0 is more than the whole range of pixels"),
        ({"attack_steps": 0}, "attack_steps: expected at least 1"),
        ({"attack_step_size": 0.0}, "attack_step_size: must be positive"),
        ({"batch_norm_attack": "train"}, "batch_norm_attack: unknown 'train'"),
        ({"batch_norm_update": "none"}, "batch_norm_update: unknown 'none'"),
    ],
)
def test_impossible_configs_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        methods.build(TrainConfig(**{"method": "pgd", **fields}), "single")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task: unknown 'boxes'"):
        methods.build(TrainConfig(method="standard"), "boxes")


@pytest.mark.parametrize(
    "weights",
    [{"clean": 0.7, "fgsm": 0.7}, {"clean": 1.5, "fgsm": -0.5}, {"clean": 0.5, "bim": 0.5}],
)
def test_impossible_shares_are_refused(weights):
    inners = (methods.one_step(_config("mixed")),)
    with pytest.raises(ValueError, match="weights"):
        methods.mixed(methods.get_task("single"), inners, weights=weights)


def test_attacks_of_one_name_are_refused():
    inner = methods.one_step(_config("mixed"))
    with pytest.raises(ValueError, match="attacks need different names"):
        methods.mixed(methods.get_task("single"), (inner, inner))
