import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import metrics


def _batches(logits, target, size):
    """Cut into batches, the last one padded with NaN outputs."""
    for start in range(0, len(target), size):
        part, labels = logits[start : start + size], target[start : start + size]
        pad = size - len(labels)
        yield (
            np.concatenate([part, np.full((pad, logits.shape[1]), np.nan, np.float32)]),
            np.concatenate([labels, np.full(pad, 99, labels.dtype)]),
            np.arange(size) < len(labels),
        )


@pytest.mark.parametrize("jit", [True, False])
def test_equals_the_host_metrics_with_padding(jit):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(53, 3)).astype(np.float32)
    target = rng.integers(0, 3, 53).astype(np.int32)
    for meter, expected in [
        (metrics.streaming_accuracy(), metrics.accuracy(logits.argmax(1), target)),
        (metrics.streaming_confusion(3), metrics.confusion_matrix(logits.argmax(1), target)),
        (metrics.streaming_mean(lambda out, _: out.max(-1)), logits.max(1).mean()),
    ]:
        update = jax.jit(meter.update) if jit else meter.update
        sums = meter.init()
        for batch in _batches(logits, target, 16):
            sums = update(sums, *map(jnp.asarray, batch))
        np.testing.assert_allclose(meter.compute(sums), expected, rtol=1e-6)


def test_one_trace_for_all_batches():
    meter = metrics.streaming_accuracy()
    traces = 0

    def update(*args):
        nonlocal traces
        traces += 1
        return meter.update(*args)

    jitted, sums = jax.jit(update), meter.init()
    for _ in range(3):
        sums = jitted(sums, jnp.eye(2), jnp.array([0, 1]), jnp.array([True, True]))
    assert (traces, int(sums.hits), int(sums.num)) == (1, 6, 6)


def test_a_tie_or_a_nan_is_not_right():
    logits = jnp.array([[1.0, 1.0], [jnp.nan, 0.0], [2.0, 1.0]])
    np.testing.assert_array_equal(metrics.correct(logits, jnp.array([0, 1, 0])), [0, 0, 1])
    labels = jnp.array([[1, 0], [1, 0], [1, -1]])
    many = jnp.array([[1.0, 0.0], [1.0, -1.0], [3.0, 5.0]])
    np.testing.assert_array_equal(metrics.correct(many, labels), [0, 1, 1])


def test_long_sums_do_not_wear_out():
    meter = metrics.streaming_mean(lambda out, _: out)
    ones = jnp.full((1,), 0.1)

    @jax.jit
    def run():
        def step(sums, _):
            return meter.update(sums, ones, ones, ones > 0), None

        return jax.lax.scan(step, meter.init(), None, length=2_000_000)[0]

    plain = np.cumsum(np.full(2_000_000, 0.1, np.float32))[-1] / 2_000_000
    assert abs(plain - np.float32(0.1)) > 1e-4  # what an uncompensated sum gives
    assert abs(float(meter.compute(run())) - np.float32(0.1)) < 1e-7


def test_nothing_seen_is_nan():
    for meter in (metrics.streaming_accuracy(), metrics.streaming_mean(lambda out, _: out)):
        assert jnp.isnan(meter.compute(meter.init()))
