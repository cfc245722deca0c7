"""A sweep that is killed and called again ends as one that was not."""

import jax
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat

RNG = np.random.default_rng(7)
N, CLASSES = 40, 4
X = RNG.random((N, 3, 3, 2), np.float32)
W = RNG.normal(size=(18, CLASSES)).astype(np.float32)
Y = (X.reshape(N, -1) @ W).argmax(1).astype(np.int32)
Y[:3] = (Y[:3] + 1) % CLASSES
EPSILONS = np.arange(1, 9) / 60


def maker(build):
    def make(w):
        objective = attacks.from_logits(
            lambda x: x.reshape(x.shape[0], -1) @ w, loss=losses.cross_entropy
        )
        return build(objective, threat.linf())

    return make


CASCADE = [
    maker(attacks.fgsm),
    maker(lambda o, b: attacks.pgd(o, b, num_steps=6)),
]


class Stop(Exception):
    """Stands in for a kill."""


def call(folder=None, *, stop_after=None, params=W, heard=None, **changed):
    count = 0

    def done(attack, examples, tables):
        nonlocal count
        if heard is not None:
            heard.extend((attack, int(example)) for example in examples)
        count += len(examples)
        if stop_after is not None and count >= stop_after:
            raise Stop

    options = {"epsilons": EPSILONS, "key": jax.random.key(3), "slots": 8, **changed}
    return engine.sweep(
        CASCADE, params, X, Y, resume=folder, done=done, return_x_adv=True, diagnose=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def hasty(monkeypatch):
    """Hand out what is decided after every call of the program, and call it for few ticks."""
    from advjax.engine import _stage

    monkeypatch.setattr(_stage, "HARVEST", -1.0)
    monkeypatch.setattr(_stage, "SECONDS", 0.0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("stop_after", [1, 15, 39, 45])
def test_a_killed_sweep_goes_on(hasty, tmp_path, stop_after):
    whole = call()
    with pytest.raises(Stop):
        call(tmp_path / "kept", stop_after=stop_after)
    parts = sorted((tmp_path / "kept").glob("attack-*.npz"))
    assert parts
    heard = []
    again = call(tmp_path / "kept", heard=heard)
    # those that were known too, each once
    assert len(heard) == len(set(heard))
    assert {example for attack, example in heard if attack == 0} == set(range(N))
    np.testing.assert_array_equal(again.min_eps, whole.min_eps)
    np.testing.assert_array_equal(again.solved_by, whole.solved_by)
    np.testing.assert_array_equal(again.status, whole.status)
    np.testing.assert_array_equal(again.x_adv, whole.x_adv)
    for a, b in zip(again.tables, whole.tables, strict=True):
        np.testing.assert_array_equal(a.verdict, b.verdict)
        np.testing.assert_array_equal(a.steps, b.steps)
    # a third call finds nothing to do, and counts the work that was done
    third = call(tmp_path / "kept")
    np.testing.assert_array_equal(third.min_eps, whole.min_eps)
    assert third.rows_computed == again.rows_computed >= whole.rows_useful


def test_another_sweep_is_refused_by_name(tmp_path):
    call(tmp_path / "kept")
    with pytest.raises(ValueError, match="another epsilons, model, params;"):
        call(tmp_path / "kept", params=W * 2, epsilons=EPSILONS[:4])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no sweep"):
        call(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_a_damaged_part_is_named(tmp_path):
    call(tmp_path / "kept")
    part = sorted((tmp_path / "kept").glob("attack-0-*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{part.name} .*damaged"):
        call(tmp_path / "kept")


def test_another_model_with_the_same_parameters_is_refused(tmp_path):
    """A network that is no argument is known by what it answers."""
    call(tmp_path / "kept")

    def other(w):
        objective = attacks.from_logits(
            lambda x: -x.reshape(x.shape[0], -1) @ w, loss=losses.cross_entropy
        )
        return attacks.fgsm(objective, threat.linf())

    with pytest.raises(ValueError, match="another model"):
        engine.sweep(
            [other, CASCADE[1]], W, X, Y, epsilons=EPSILONS, key=jax.random.key(3),
            return_x_adv=True, resume=tmp_path / "kept",
        )  # fmt: skip


def test_a_removed_part_is_attacked_again_and_no_other_is_lost(hasty, tmp_path):
    whole = call(tmp_path / "kept")
    parts = sorted((tmp_path / "kept").glob("attack-0-*.npz"))
    assert len(parts) > 2
    parts[1].unlink()
    again = call(tmp_path / "kept")
    np.testing.assert_array_equal(again.min_eps, whole.min_eps)
    left = set(parts) - {parts[1]}
    assert left < set((tmp_path / "kept").glob("attack-0-*.npz"))
    third = call(tmp_path / "kept")
    assert third.rows_computed == again.rows_computed


@pytest.mark.parametrize(
    ("build", "usual", "changed"),
    [
        (attacks.pgd, {"step_size": 0.25}, {"step_size": 0.125}),
        (attacks.mifgsm, {"decay": 1.0}, {"decay": 0.5}),
    ],
)
def test_another_option_of_an_attack_is_another_sweep(tmp_path, build, usual, changed):
    def sweep(options):
        make = maker(lambda o, b: build(o, b, num_steps=3, **options))
        return engine.sweep(
            make, W, X, Y, epsilons=EPSILONS, key=jax.random.key(3), resume=tmp_path, diagnose=False
        )

    first = sweep(usual)
    assert sweep(usual).rows_computed == first.rows_computed  # known by another callable
    with pytest.raises(ValueError, match="another steps;"):
        sweep(changed)


def test_a_file_is_no_folder_to_go_on_from(tmp_path):
    (tmp_path / "kept").write_text("mine")
    make = maker(lambda o, b: attacks.pgd(o, b, num_steps=3))
    with pytest.raises(ValueError, match="kept is a file; name a folder"):
        engine.sweep(
            make, W, X, Y, epsilons=EPSILONS, key=jax.random.key(3), resume=tmp_path / "kept"
        )
    assert (tmp_path / "kept").read_text() == "mine"
