"""Contracts: what every ball, loss, criterion, direction and attack owes, as functions to call.

One shared test runs each contract over its table; an attack of your own passes the same way:

    from advjax import testing
    testing.check_attack(my_attack_factory)

Each raises AssertionError with what was violated. They run on tiny inputs, in well under a second
after compilation. Plain NumPy and jax only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import threat
from advjax.types import Array, Attack, Ball, Batch, CriterionFn, LossFn, Output

TOLERANCE = 1e-6


def linear_problem(
    num_rows: int = 6, shape: tuple[int, ...] = (4, 5, 2), num_classes: int = 2, seed: int = 0
) -> tuple[Callable[[Array], Array], Array, Array, np.ndarray]:
    """Return a linear classifier whose worst case is known in closed form.

    Returns:
      `fn(x [B, ...]) -> [B, C]`, images in [0.35, 0.65], labels as predicted (correct when clean),
      and the weights `[D, C]`.
    """
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(int(np.prod(shape)), num_classes))
    x = jnp.asarray(rng.uniform(0.35, 0.65, size=(num_rows, *shape)), jnp.float32)
    bias = -np.mean(np.asarray(x).reshape(num_rows, -1) @ weights, axis=0)

    def fn(x: Array) -> Array:
        return x.reshape(x.shape[0], -1) @ jnp.asarray(weights, x.dtype) + jnp.asarray(
            bias, x.dtype
        )

    return fn, x, jnp.argmax(fn(x), -1), weights


def check_ball(ball: Ball, *, shape: tuple[int, ...] = (4, 3, 2), seed: int = 0) -> None:
    """Check a ball of one example: projection, sampling, steepest direction and both norms.

    An l0 ball has no steepest direction, and must say so by a ValueError.
    """
    rng = np.random.default_rng(seed)
    low, high = (float(np.min(b)) for b in ball.bounds)
    rows = threat.over_rows(ball)
    for eps in (0.0, 0.03, 0.4, 3.0):
        x0 = jnp.asarray(rng.uniform(low, high, size=(5, *shape)), jnp.float32)
        far = jnp.asarray(rng.normal(size=(5, *shape)) * 2, jnp.float32)
        budgets = jnp.full(5, eps, jnp.float32)
        keys = jax.random.split(jax.random.key(seed), 5)
        for name, x in (("project", rows.project(far, x0, budgets)),
                        ("sample", rows.sample(keys, x0, budgets))):  # fmt: skip
            what = f"{ball.name}.{name}, eps={eps}"
            _assert(np.all(rows.distance(x, x0) <= eps * (1 + TOLERANCE) + TOLERANCE), what)
            _assert(np.all((x >= low) & (x <= high)), f"{what}: bounds")
            _assert(eps > 0 or bool(np.all(x == x0)), f"{what}: eps = 0 must return x0")
            np.testing.assert_allclose(rows.project(x, x0, budgets), x, atol=1e-6, err_msg=what)
    g = jnp.asarray(rng.normal(size=(5, *shape)), jnp.float32)
    if ball.name.startswith("l0"):
        _refuses(rows.steepest, g)
        return
    unit = rows.steepest(g)
    zero = jnp.zeros_like(g)
    gain = jnp.sum((g * unit).reshape(5, -1), -1)
    np.testing.assert_allclose(gain, rows.dual_norm(g), rtol=1e-5, err_msg="steepest: dual norm")
    np.testing.assert_allclose(rows.distance(unit, zero), 1, rtol=1e-5, err_msg="steepest: unit")
    _assert(bool(np.all(rows.steepest(zero) == 0)), "steepest of a zero gradient must be zero")
    np.testing.assert_allclose(rows.steepest(g * 1e-30), unit, atol=1e-5, err_msg="tiny gradients")


def check_loss(loss: LossFn, output: Output, target: Any) -> None:
    """Check a loss of one example: a finite scalar with a finite gradient, `vmap` and `jit`."""
    value = loss(output, target)
    _assert(value.shape == () and bool(jnp.isfinite(value)), "a loss is one finite scalar")
    gradient = jax.grad(lambda o: loss(o, target))(output)
    finite = [bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient)]
    _assert(all(finite), "the gradient of a loss is finite")
    turned = jax.tree.map(lambda leaf: leaf[::-1], output)
    outputs = jax.tree.map(lambda *rows: jnp.stack(rows), output, turned)
    targets = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), target)
    rows = jnp.stack([loss(row, target) for row in (output, turned)])
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(outputs, targets), rows, rtol=1e-5)


def check_criterion(
    criterion: CriterionFn, output: Output, target: Any, tie: Output | None = None
) -> None:
    """Check a criterion of one example: a boolean scalar; ties and NaN are no success.

    Args:
      criterion: what is checked.
      output: of one example.
      target: of one example.
      tie: an output that is just no success; None: all zeros.
    """
    _assert(criterion(output, target).dtype == jnp.bool_, "a criterion returns a boolean")
    _assert(criterion(output, target).shape == (), "a criterion sees one example")
    if tie is None:
        tie = jax.tree.map(jnp.zeros_like, output)
    _assert(not criterion(tie, target), "a tie is no success")
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        poisoned = jax.tree.map(lambda leaf, bad=bad: leaf.at[-1].set(bad), output)
        _assert(not criterion(poisoned, target), f"an output of {bad} is no success")


def check_direction(direction: optax.GradientTransformation, ball: Ball) -> None:
    """Check a direction: zero gradient, no move; and rows that do not see each other."""
    direction = optax.with_extra_args_support(direction)
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.normal(size=(3, 8, 8, 2)), jnp.float32) * jnp.asarray(
        [1.0, 100.0, 0.0]
    ).reshape(3, 1, 1, 1)
    eps = jnp.asarray([0.1, 0.2, 0.3])

    def one(g: Array, eps: Array) -> Array:
        return direction.update(g, direction.init(g), g, eps=eps, ball=ball, step_size_abs=eps)[0]

    together = jax.vmap(one)(g, eps)
    _assert(bool(jnp.all(jnp.isfinite(together))), "a direction is finite")
    _assert(bool(jnp.all(together[2] == 0)), "a zero gradient moves nothing")
    for i in range(3):
        np.testing.assert_allclose(one(g[i], eps[i]), together[i], rtol=1e-5, atol=1e-7)


def check_attack(
    factory: Callable[..., Attack],
    run: Callable[..., Any],
    from_logits: Callable[..., Any],
    loss: LossFn,
    ball: Ball,
) -> None:
    """Check an attack on a linear model: ball, bounds, eps = 0, counts, zero gradient, rows.

    A failure of an attack for the minimal norm is infinitely far away. An attack that asks for
    no gradient and takes no estimate for one has nothing to flag where the model is constant. One
    that was trained before does not look at the model at all, and moves there too.

    Args:
      factory: `(objective, ball, **options) -> Attack`.
      run: `attacks.run`.
      from_logits: `attacks.from_logits`.
      loss: what to ascend.
      ball: the threat model.
    """
    fn, x, y, _ = linear_problem()
    attack = factory(from_logits(fn, loss=loss), ball)
    k, cost = attack.spec.num_steps, attack.spec.cost
    keys = jax.random.split(jax.random.key(3), len(x))
    eps = jnp.asarray([0.0, 0.01, 0.02, 0.05, 0.2, 3.0], jnp.float32)
    low, high = ball.bounds
    call = jax.jit(lambda *args, stop: run(attack, *args, stop=stop), static_argnames="stop")
    for stop in ("success", "budget"):
        result = call(keys, x, y, eps, stop=stop)
        away = threat.over_rows(ball).distance(result.x_adv, x)
        _assert(bool(jnp.all(away <= eps * (1 + TOLERANCE) + TOLERANCE)), "ball")
        if attack.spec.minimal:
            away = jnp.where(result.success, away, jnp.inf)
        np.testing.assert_allclose(result.distance, away, rtol=1e-5, atol=TOLERANCE)
        _assert(bool(jnp.all((result.x_adv >= low) & (result.x_adv <= high))), "bounds")
        _assert(bool(jnp.all(result.x_adv[0] == x[0])), "eps = 0 returns x")
        logits = fn(result.x_adv)
        other = jnp.where(jax.nn.one_hot(y, logits.shape[1], dtype=bool), -jnp.inf, logits).max(1)
        wrong = other > logits[jnp.arange(len(y)), y]
        _assert(bool(jnp.all(wrong == result.success)), "success describes x_adv")
        _assert(bool(jnp.all(result.num_steps <= k)), "num_steps")
        again = call(keys, x, y, eps, stop=stop)
        _assert(bool(jnp.all(again.x_adv == result.x_adv)), "the same keys, the same result")
    _assert(bool(jnp.all(result.num_steps == k)), 'stop="budget" spends every step')
    # rows of an attack for the minimal norm may be done before, and cost nothing from then on
    most, spent = k * cost.backwards, result.num_grads
    whole = (spent >= min(most, 1)) & (spent <= most) if attack.spec.minimal else spent == most
    _assert(bool(jnp.all(whole)), "k steps, k backward passes")
    order = jnp.asarray([4, 2, 0, 5, 1, 3])
    shuffled = call(keys[order], x[order], y[order], eps[order], stop="budget")
    np.testing.assert_allclose(shuffled.x_adv, result.x_adv[order], atol=1e-6, err_msg="order")

    constant = factory(from_logits(lambda x: jnp.zeros((x.shape[0], 2)), loss=loss), ball)
    flat = jax.jit(lambda *args: run(constant, *args, x_start=x, stop="budget"))(keys, x, y, eps)
    blind = attack.spec.keep == "last" and cost == (0, 0)
    _assert(blind or bool(jnp.all(flat.x_adv == x)), "a zero gradient moves nothing")
    flagged = attack.spec.cost.backwards > 0 or bool(jnp.any(flat.status > 0))
    _assert(not flagged or bool(jnp.all(flat.status == 1)), "a zero gradient is flagged")
    _assert(not bool(jnp.any(flat.success)), "a tie is no success")


def check_method(
    loss: Callable[..., Any],
    method_state: Any,
    apply: Callable[..., Any],
    variables: dict[str, Any],
    batch: Batch,
) -> None:
    """Check a training method: finite, differentiable, repeatable, and blind to padding rows.

    Args:
      loss: of the method, `(apply, params, model_state, batch, key, method_state)`.
      method_state: what the method's `init` returned.
      apply: of a model without batch-norm.
      variables: of the model.
      batch: two rows at least, all valid; the model must not couple them by batch-norm.
    """
    state = {name: value for name, value in variables.items() if name != "params"}
    keys = jax.random.split(jax.random.key(0), len(batch.id))

    def value(params: Any, batch: Batch) -> tuple[Array, dict[str, Array]]:
        total, aux = loss(apply, params, state, batch, keys, method_state)
        return total, aux.metrics

    whole = jax.jit(jax.value_and_grad(value, has_aux=True))
    (total, metrics), gradient = whole(variables["params"], batch)
    _assert(total.shape == () and bool(jnp.isfinite(total)), "the loss is one finite scalar")
    leaves = jax.tree.leaves(gradient)
    _assert(all(bool(jnp.all(jnp.isfinite(g))) for g in leaves), "the gradient is finite")
    _assert(any(bool(jnp.any(g != 0)) for g in leaves), "the gradient moves something")
    again = whole(variables["params"], batch)[0][0]
    _assert(bool(again == total), "the same keys, the same loss")
    padded = batch._replace(valid=jnp.asarray(batch.valid).at[-1].set(False))
    other = padded._replace(target=jax.tree.map(lambda t: jnp.roll(t, 1, 0), padded.target))
    mixed = jax.tree.map(lambda t, o: t.at[-1].set(o[-1]), padded.target, other.target)
    a = whole(variables["params"], padded)[0][0]
    b = whole(variables["params"], padded._replace(target=mixed))[0][0]
    _assert(bool(a == b), "what a padding row is labelled must not matter")
    _assert(all(v.shape == (len(batch.id),) for v in metrics.values()), "metrics are one per row")


def _refuses(call: Callable[[Array], Any], value: Array) -> None:
    try:
        call(value)
    except ValueError:
        return
    _assert(False, "a ball without a steepest direction raises a ValueError")


def _assert(condition: Any, what: str) -> None:
    if not bool(condition):
        raise AssertionError(f"contract violated: {what}")
