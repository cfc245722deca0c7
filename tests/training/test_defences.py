"""Defences: closed forms, official values, and what each must reduce to."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, threat, training
from advjax.config import ModelConfig, OptimizerConfig, TrainConfig
from advjax.training import methods
from tests.training.defended import EPS, KEY, RNG, build, result, same
from tests.training.runs import train
from tests.training.tiny import SHAPE, make_batch, tiny_model

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
            build(name, "segmentation")


def test_detectors_have_no_probabilities_to_compare():
    for name in ("distillation", "hat", "maadvt", "mart", "trades"):
        with pytest.raises(ValueError, match=f"{name} compares probabilities.*use one of fast"):
            build(name, "detection")
    with pytest.raises(ValueError, match="temperature: detectors have no softmax"):
        build("standard", "detection", temperature=5.0)


# --- what each reduces to


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_trades_without_its_weight_is_clean_training(task):
    found = result("trades", task, beta=0.0, batch_norm_update="clean")
    same(found, result("standard", task))


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_hat_without_its_helper_is_trades(task):
    """Loss, gradient, and the statistics, which helper examples never move."""
    found = result("hat", task, hat_gamma=0.0, beta=2.0, batch_norm_update="both")
    same(found, result("trades", task, beta=2.0, batch_norm_update="both"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", ["single", "multi"])
def test_maadvt_with_fixed_budgets_is_mart(task):
    """Four steps of 0.007 for every row."""
    found = result("maadvt", task, steps_range=(4, 4), eps=0.03)
    same(found, result("mart", task, attack_steps=4, attack_step_size=0.007 / 0.03, eps=0.03))


def test_mpadvt_with_fixed_budgets_is_pgd_training():
    eps = 4 / 255
    drawn = result("mpadvt", eps_range=(eps, eps), steps_range=(4, 4), adversarial_share=1.0)
    same(drawn, result("pgd", eps=eps, attack_steps=4, attack_step_size=0.25))


def test_free_of_one_replay_and_no_budget_is_plain_training():
    model = tiny_model()
    optimizer = training.build_optimizer(OptimizerConfig(learning_rate=0.2), total_steps=20)
    found = []
    for method in (build("free", eps=0.0, replays=1), build("standard")):
        step = jax.jit(training.make_train_step(model, method, optimizer))
        state = training.init_state(model, method, optimizer, 0, SHAPE)
        for i in range(3):
            state, _ = step(state, make_batch(seed=i))
        found.append((state.params, state.model_state, state.step))
    chex.assert_trees_all_equal(*found)


def test_fast_with_a_step_of_nothing_trains_on_random_noise():
    views = result("fast", attack_step_size=0.0).views
    batch = make_batch()
    keys = methods.rows_of(KEY, batch, "rs_fgsm")
    # the start of the attack: its own key of each row, a uniform point of the ball
    starts = jax.vmap(lambda k: jax.random.split(k)[0])(keys)
    noise = threat.over_rows(threat.linf()).sample(starts, batch.image, jnp.full(16, EPS))
    np.testing.assert_allclose(views["rs_fgsm"], noise, atol=1e-7)


# --- normalised space


def test_normalised_space_with_a_std_of_one_is_pixel_space():
    found = result("pgd", space="normalised", model=ModelConfig(std=1.0))
    chex.assert_trees_all_equal(found.views, result("pgd").views)


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


@pytest.mark.parametrize("name", ["small_cnn", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_the_gradient_penalty_learns_at_its_default_weight(make, tmp_path, name):
    """What is fit for a network of one layer makes a fresh one of the zoo diverge."""
    config = make(
        "run", method="gradient", model=ModelConfig(name=name, width=4), epochs=12,
        optimizer=OptimizerConfig(), val_examples=0,
    )  # fmt: skip
    train(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    accuracy = [row["train_accuracy"] for row in rows]
    assert len(accuracy) == 12
    assert accuracy[-1] > 0.5 > accuracy[0]
