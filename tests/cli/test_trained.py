"""`--attacks uap gap`: on linear models the best perturbation is known."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data, models, report, store
from advjax.cli import _evaluate, _trained, _transfer
from advjax.cli._checks import check_evaluation, check_sweep
from advjax.cli._subjects import Subject, plan
from advjax.config import EvaluateConfig, SweepConfig

pytestmark = pytest.mark.unoptimised

SHAPE, COUNT = (4, 4, 1), 24
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 3)).astype(np.float32)
# of images near the middle, where no perturbation meets the end of the pixel range
IMAGES = RNG.uniform(0.35, 0.65, (COUNT, *SHAPE)).astype(np.float32)
SLOPE = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(SHAPE)
FLAT = IMAGES.reshape(COUNT, -1)
LIFT = float((FLAT @ SLOPE.ravel()).max()) + 0.3
MARGIN = LIFT - FLAT @ SLOPE.ravel()
# what brings a quarter of the training images to class 1, and nearly all: training never ends early
NEEDED = MARGIN / np.abs(SLOPE).sum()
EPSILONS = tuple(float(value) for value in np.quantile(NEEDED[:16], (0.25, 0.95)))


def split(rows, targets):
    return data.Split(IMAGES[rows], targets[rows], np.arange(COUNT, dtype=np.int32)[rows])


def subject(apply, targets, task="single", variables=None, name="net"):
    """A model on images of its own; what it is trained on has other images than the test."""
    splits = {"train": split(slice(0, 16), targets), "test": split(slice(8, 24), targets)}
    names = ("a", "b", "c") if task == "multi" else ("a", "b")
    dataset = data.Dataset("made", task, len(names), names, SHAPE, splits)
    scale = {"scale": jnp.float32(1)} if variables is None else variables
    return Subject(name, apply, apply, scale, dataset, splits["test"])


def two_classes(variables, x):
    """All images are of class 0, and differ in how far they are from class 1."""
    logits = x.reshape(len(x), -1) @ WEIGHTS[:, :2]
    return (logits + jnp.asarray([LIFT, 0.0])) * variables["scale"]


def findings(variables, x):
    return (x - 0.5).reshape(len(x), -1) @ WEIGHTS * variables["scale"]


def pixels(variables, x):
    """All pixels are of class 0, at most 0.35 from class 1."""
    z = (x - 0.3) * variables["scale"]
    return jnp.concatenate([z, -z], -1)


SINGLE = subject(two_classes, np.zeros(COUNT, np.int32))
MULTI = subject(
    findings, np.asarray(findings({"scale": 1.0}, IMAGES) > 0).astype(np.int32), "multi"
)
MASKS = subject(pixels, np.zeros((COUNT, *SHAPE[:2]), np.int32), "segmentation")
# of the test images, which a perturbation of the whole budget can bring to class 1 `[E, N]`
BEST = NEEDED[8:] < np.asarray(EPSILONS)[:, None]


@pytest.fixture(autouse=True)
def one_generator(monkeypatch):
    """A generator of one perturbation for all: the programs of a U-Net take a minute."""

    def init(key, x):
        return {"params": {"bias": 0.1 * jax.random.normal(key, x.shape[1:])}}

    def apply(variables, x):
        return jnp.broadcast_to(jnp.tanh(variables["params"]["bias"]), x.shape)

    made = models.from_fn(apply, init)
    monkeypatch.setattr(_trained, "_generator", lambda channels, width: made)


def evaluated(out, subjects, *attacks, **fields):
    """Evaluate subjects; return the rows of the attacks, by name, and how many parts were made."""
    options = {"epsilons": EPSILONS, "panels": 0, "bootstrap": 20, "batch_size": 16} | fields
    config = EvaluateConfig(out=str(out), attacks=attacks, **options)
    jobs = plan(config, subjects)
    rows = store.Store(out, identity={})
    extra = {"data": {"made": {"task": subjects[0].dataset.task, "class_names": ["a", "b", "c"]}}}
    rows.write_manifest(config=config, extra=extra)
    done = _evaluate.run(config, jobs, rows)
    found = {}
    for job in jobs:
        columns = rows.read(attack=job.attack)
        order = np.lexsort((columns["example_id"], columns["eps"], columns["restart"]))
        found[job.attack] = {name: column[order] for name, column in columns.items()}
    return found, done


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    found = evaluated(out, [SINGLE], "uap:version=sign", "uap:version=sign,goal=class-b")[0]
    return out, found


def by_budget(column):
    return column.reshape(len(EPSILONS), -1)


def test_the_sign_version_is_the_corner_of_a_linear_model(single):
    # eps sign(w): no other perturbation in the ball brings more images over the boundary
    assert 0 < BEST[0].sum() < BEST[1].sum()
    for name in ("uap-sign", "uap-sign-class-b"):
        rows = single[1][name]
        np.testing.assert_array_equal(by_budget(rows["success"]), BEST, err_msg=name)
        # of the whole budget, also where the best pass was a step short
        np.testing.assert_allclose(rows["linf"], rows["eps"], rtol=1e-4)


def test_deepfool_goes_along_the_slope(tmp_path):
    lengths = np.quantile(MARGIN[8:], (0.25, 0.7)) / np.linalg.norm(SLOPE)
    found, _ = evaluated(tmp_path, [SINGLE], "uap:norm=l2", epsilons=tuple(lengths.tolist()))
    rows = found["uap-l2"]
    np.testing.assert_allclose(rows["l2"], rows["eps"], rtol=1e-4)
    best = MARGIN[8:] / np.linalg.norm(SLOPE) < lengths[:, None]
    assert 0 < best[0].sum() < best[1].sum()
    np.testing.assert_array_equal(by_budget(rows["success"]), best)


def test_rows_are_those_of_an_attack_without_gradients(single):
    out, found = single
    for rows in found.values():
        assert (rows["num_grads"] == 0).all()
        assert (rows["num_queries"] == 1).all()
        assert rows["evaluated"].all()
        assert not rows["wrong_when_clean"].any()
        shown = rows["probabilities"].argmax(1) != rows["target"][:, 0]
        np.testing.assert_array_equal(rows["success"], shown)
    told = json.loads((out / "manifest.json").read_text())["extra"]
    assert told["cost"]["net"]["uap-sign"]["backwards"] == 0
    made = told["trained"]["net"]["uap-sign"]["made"]
    # of the images that it was trained on, the share is known too
    rates = [np.mean(NEEDED[:16] < eps) for eps in EPSILONS]
    assert [made[f"{eps!r}/0"]["reached"] for eps in EPSILONS] == pytest.approx(rates)
    page = report.build(out).read_text()
    assert "Trainings of attacks come on top: net uap-sign: 2 on 16 images" in page


def test_a_generator_finds_the_corner_too(tmp_path):
    words = ("gap:epochs=20,step_size=0.3", "gap:version=universal,step_size=0.3,goal=class-b")
    found, _ = evaluated(tmp_path, [SINGLE], *words)
    assert set(found) == {"gap-step0.3-epochs20", "gap-universal-step0.3-class-b"}
    for name, rows in found.items():
        # a tanh comes close to its corner
        assert (by_budget(rows["success"]) <= BEST).all(), name
        assert (by_budget(rows["success"]) == BEST).mean() > 0.9, name
        assert (rows["num_grads"] == 0).all()


def test_findings(tmp_path):
    words = ["uap", "uap:version=sign,goal=hide-b"]
    words += ["gap:step_size=0.3", "gap:step_size=0.3,goal=fabricate-a"]
    found, _ = evaluated(tmp_path, [MULTI], *words, epsilons=(0.1,))
    true = MULTI.split.targets > 0
    for name, rows in found.items():
        said = rows["probabilities"] > 0.5
        broken = {
            "uap-sign-hide-b": true[:, 1] & ~said[:, 1],
            "gap-step0.3-fabricate-a": ~true[:, 0] & said[:, 0],
        }.get(name, (said != true).any(1))
        np.testing.assert_array_equal(rows["success"], broken, err_msg=name)
        assert broken.sum() > len(true) / 4, name


def test_signs_against_masks(tmp_path):
    word = "uap:version=sign,images=8,epochs=15,step_size=0.1"
    found, _ = evaluated(tmp_path, [MASKS], word, epsilons=(0.04, 0.4))
    (rows,) = found.values()
    np.testing.assert_allclose(rows["linf"], rows["eps"], rtol=1e-4)
    # up is where every pixel becomes class 1: beyond 0.05 to 0.35 of change
    lifted = np.clip(IMAGES[8:] + np.float32(0.4), 0, 1) > 0.3
    assert lifted.all()
    assert not by_budget(rows["success"])[0].any()
    assert by_budget(rows["success"])[1].all()
    counts = rows["probabilities"].reshape(2, -1, 2, 3)
    assert (counts[1, :, 1, 1] > 12).all()


@pytest.mark.parametrize("goal", ["", ",goal=erase"])
def test_a_generator_against_masks(tmp_path, goal):
    found, _ = evaluated(tmp_path, [MASKS], f"gap:step_size=0.3{goal}", epsilons=(0.04, 0.4))
    (rows,) = found.values()
    # pixels of both, predicted and true, of each class
    counts = rows["probabilities"].reshape(2, -1, 2, 3)
    if goal:
        # background is what these images show already
        assert rows["wrong_when_clean"].all()
        return
    assert not by_budget(rows["success"])[0].any()
    assert by_budget(rows["success"])[1].all()
    assert (counts[1, :, 1, 1] > 12).all()


def test_the_seed_decides_and_batches_do_not(tmp_path):
    word = "uap:version=sign,images=5,epochs=1,step_size=0.5"
    options = {"epsilons": (0.1,), "restarts": 2}
    first, again, other = (
        evaluated(tmp_path / str(number), [MULTI], word, **options, **more)[0]
        for number, more in enumerate(({}, {"batch_size": 5}, {"seed": 1}))
    )
    (name,) = first
    assert name == "uap-sign-step0.5-images5-epochs1"
    np.testing.assert_array_equal(first[name]["success"], again[name]["success"])
    np.testing.assert_allclose(first[name]["loss"], again[name]["loss"], rtol=1e-5)
    assert not np.allclose(first[name]["loss"], other[name]["loss"], rtol=1e-3)
    # each restart is a training of its own
    at = first[name]["restart"] == 1
    assert not np.allclose(first[name]["loss"][at], first[name]["loss"][~at], rtol=1e-3)


def test_what_is_stored_is_not_trained_again(single, monkeypatch):
    out, _ = single
    word = "uap:version=sign"
    with monkeypatch.context() as patch:
        patch.setattr(_trained, "_train_uap", None)
        assert evaluated(out, [SINGLE], word)[1] == 0
    # other training images, the same test: nothing is mixed
    splits = SINGLE.dataset.splits | {"train": SINGLE.dataset.train.select(slice(0, 12))}
    fewer = data.Dataset("made", "single", 2, ("a", "b"), SHAPE, splits)
    with pytest.raises(ValueError, match="uap-sign that was trained with other images, data"):
        evaluated(out, [SINGLE._replace(dataset=fewer)], word)


@pytest.mark.parametrize(
    ("word", "names"),
    [("uap:version=sign", {"perturbation"}),
     ("gap:step_size=0.3,epochs=2", {"seed", "generator/params/bias"})],
)  # fmt: skip
def test_what_was_trained_is_a_file(tmp_path, monkeypatch, word, names):
    options = {"epsilons": (0.1,)}
    before = evaluated(tmp_path, [SINGLE], word, **options)[0]
    (file,) = (tmp_path / "trained").glob("*.npz")
    with np.load(file) as arrays:
        assert set(arrays) == names
        if names == {"perturbation"}:
            assert 0 < np.abs(arrays["perturbation"]).max() <= 0.1 + 1e-6
    # the rows are lost, the training is not
    shutil.rmtree(tmp_path / "rows")
    with monkeypatch.context() as patch:
        patch.setattr(_trained, "_train", None)
        after = evaluated(tmp_path, [SINGLE], word, **options)[0]
    for name, rows in before.items():
        np.testing.assert_array_equal(rows["loss"], after[name]["loss"])
    shutil.rmtree(tmp_path / "rows")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cannot be read .* remove it, and it is trained again"):
        evaluated(tmp_path, [SINGLE], word, **options)


def test_a_perturbation_of_one_model_is_judged_by_another(tmp_path, capsys):
    other = SINGLE._replace(name="other", variables={"scale": jnp.float32(2)})
    config = EvaluateConfig(
        out=str(tmp_path), attacks=("uap:version=sign",), epsilons=EPSILONS, panels=0
    )
    rows = store.Store(tmp_path, identity={})
    _transfer.run(config, plan(config, [SINGLE, other]), rows)
    for model, attack in (("net", "uap-sign"), ("net", "uap-sign<-other")):
        found = rows.read(model=model, attack=attack)
        order = np.lexsort((found["example_id"], found["eps"]))
        np.testing.assert_array_equal(by_budget(found["success"][order]), BEST, err_msg=attack)
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if "trained on 16 training images" in line]) == 4


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("uap:num_steps=3", "moves once; epochs says"),
        ("uap:version=plus", "known: deepfool, sign"),
        ("gap:version=sign", "known: image, universal"),
        ("uap:width=3", "only gap has a network"),
        ("uap:goal=class-b", r"DeepFool has no goal; use uap:version=sign,goal="),
        ("uap:step_size=0.1", "DeepFool has no step_size"),
        ("uap:images=0", "images must be at least 1"),
        ("gap:images=1", "needs 2 images"),
        ("pgd:epochs=3", "only uap and gap are trained; leave epochs out"),
        ("pgd:version=sign", "only autoattack, uap and gap have versions"),
        ("uap:norm=l3", "unknown norm"),
    ],
)
def test_options_that_would_not_be_heeded(word, match):
    with pytest.raises(ValueError, match=match):
        check_evaluation(EvaluateConfig(runs=("runs/k",), attacks=(word,)))


def test_what_cannot_be_trained_is_refused():
    config = EvaluateConfig(runs=("runs/k",), attacks=("gap",), gradient_dtype="bfloat16")
    with pytest.raises(ValueError, match="gradient_dtype: gap takes float32"):
        check_evaluation(config)
    with pytest.raises(ValueError, match="uap is trained for each budget by itself"):
        check_sweep(SweepConfig(runs=("runs/k",), attacks=("pgd", "uap")))
    for task, name, match in (
        ("segmentation", "uap", "net has masks; use uap:version=sign or gap"),
        ("detection", "gap", "gap is not trained against boxes; use pgd"),
    ):
        other = data.Dataset("made", task, 2, ("a", "b"), SHAPE, SINGLE.dataset.splits)
        with pytest.raises(ValueError, match=match):
            plan(EvaluateConfig(attacks=(name,)), [SINGLE._replace(dataset=other)])
    splits = {"test": SINGLE.split}
    bare = data.Dataset("made", "single", 2, ("a", "b"), SHAPE, splits)
    with pytest.raises(ValueError, match="of the split train, of which made has none"):
        plan(EvaluateConfig(attacks=("uap",)), [SINGLE._replace(dataset=bare)])
    with pytest.raises(ValueError, match="class-NAME, with a NAME of a, b"):
        plan(EvaluateConfig(attacks=("gap:goal=class-c",)), [SINGLE])
