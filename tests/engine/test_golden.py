"""A trained network on real images: verdicts do not depend on how the engine was run."""

import functools

import jax
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat
from advjax.mesh import data_mesh

pytestmark = pytest.mark.unoptimised

EPSILONS = np.arange(1, 9) / 255
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def net(golden_dir):
    return dict(np.load(golden_dir / "autoattack_ham10000_32.npz"))


def logits(params, x):
    x = (x - 0.5) / 0.25
    for name, stride in (("1", 1), ("2", 2), ("3", 2)):
        x = jax.lax.conv_general_dilated(
            x, params["w" + name], (stride, stride), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jax.nn.relu(x + params["b" + name])
    return x.mean((1, 2)) @ params["w4"] + params["b4"]


def make_pgd(params):
    objective = attacks.from_logits(lambda x: logits(params, x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=20, step_size=0.25)


def sweep(net, rows=None, order="search", **options):
    params = {name: net[name] for name in net if name[0] in "wb"}
    rows = np.arange(len(net["x"])) if rows is None else rows
    options = {"slots": 32, "diagnose": False} | options
    return engine.sweep(
        make_pgd, params, net["x"][rows], net["y"][rows].astype(np.int32), ids=rows, order=order,
        epsilons=EPSILONS, key=KEY, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(net):
    return functools.cache(lambda order: sweep(net, order=order))


def same(result, wanted, rows=slice(None)):
    np.testing.assert_array_equal(result.min_eps, wanted.min_eps[rows])
    np.testing.assert_array_equal(result.tables[0].verdict, wanted.tables[0].verdict[rows])


@pytest.mark.slow
@pytest.mark.parametrize("slots", [8, 128])
def test_slots(net, whole, slots):
    same(sweep(net, slots=slots), whole("search"))


@pytest.mark.slow
def test_order_and_company(net, whole):
    rows = np.random.default_rng(1).permutation(84)
    same(sweep(net, rows), whole("search"), rows)
    # another number of images: the last batch of the clean evaluation is padded
    same(sweep(net, rows[:41]), whole("search"), rows[:41])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_devices(net, whole, devices):
    same(sweep(net, slots=8, mesh=data_mesh(devices)), whole("search"))


@pytest.mark.slow
def test_the_three_orders(whole):
    search, climb, everything = map(whole, engine.ORDERS)
    assert everything.tables[0].verdict.shape == (84, 1, 8)
    assert (climb.robust_accuracy <= everything.robust_accuracy).all()
    assert np.abs(search.robust_accuracy - climb.robust_accuracy).max() <= 1 / 84
    assert search.rows_computed < climb.rows_computed < everything.rows_computed
    assert 0.2 < climb.robust_accuracy[1] < climb.clean_accuracy
