"""`advjax transfer`: the matrix of surrogates and targets, from rows on disk."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, data, losses, models, store, threat, training
from advjax.cli import main
from advjax.random import example_keys

pytestmark = pytest.mark.unoptimised

TRAIN = [
    "--data.source", "phantom:ct", "--data.size", "16", "--data.num-train", "32",
    "--data.num-val", "8", "--data.num-test", "12", "--model.name", "small_cnn",
    "--model.width", "4", "--epochs", "1", "--batch-size", "16",
]  # fmt: skip
TRANSFER = ["--attacks", "fgsm", "--epsilons", "4/255", "16/255", "--bootstrap", "20"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    names = [str(folder / "a"), str(folder / "b")]
    for seed, name in enumerate(names):
        assert main(["train", "--out", name, *TRAIN, "--seed", str(seed)]) == 0
    return names


@pytest.fixture(scope="module")
def done(runs, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("transfer") / "out")
    assert main(["transfer", "--runs", *runs, "--out", out, *TRANSFER]) == 0
    return out


def test_rows_say_whose_images_they_are_about(done):
    rows = store.Store(done).read()
    assert set(zip(rows["model"], rows["attack"], strict=True)) == {
        ("a", "none"), ("b", "none"), ("a", "fgsm"), ("b", "fgsm"), ("a", "fgsm<-b"),
        ("b", "fgsm<-a"),
    }  # fmt: skip
    assert len(rows["eps"]) == 2 * 12 * (1 + 2 * 2)
    other = np.array(["<-" in name for name in rows["attack"]])
    assert (rows["num_grads"][other] == 0).all()
    assert (rows["num_queries"][other] == 1).all()
    assert (rows["linf"] <= rows["eps"] + 1e-6).all()
    wrong = rows["probabilities"].argmax(1) != rows["target"][:, 0]
    np.testing.assert_array_equal(rows["success"], wrong)


def test_the_images_are_those_of_the_surrogate(done, runs):
    # by hand: FGSM on a, judged by b
    (model, a, config, _), (_, b, *_) = (training.restore_model(run) for run in runs)
    split = data.load(config.data).splits["test"]
    x = np.asarray(split.images, np.float32)
    x = jnp.asarray(x / 255 if split.images.dtype == np.uint8 else x)

    @jax.jit
    def judged(a, b, x):
        objective = attacks.from_logits(lambda x: model.apply(a, x), loss=losses.cross_entropy)
        attack = attacks.fgsm(objective, threat.linf())
        keys = example_keys(jax.random.key(0), split.ids, 0, "fgsm")
        made = attacks.run(attack, keys, x, split.targets, 16 / 255, stop="budget")
        return model.apply(b, made.x_adv)

    assert isinstance(model, models.Model)
    expected = np.asarray(jax.nn.softmax(judged(a, b, x)))
    rows = store.Store(done).read(model="b", attack="fgsm<-a", eps=16 / 255)
    order = np.argsort(rows["example_id"])
    np.testing.assert_allclose(
        rows["probabilities"][order], expected[np.argsort(split.ids)], atol=1e-4
    )


def test_the_report_has_the_matrix(done):
    with open(f"{done}/report.html") as file:
        page = file.read()
    (table,) = re.findall(r'<table data-metric="transfer".*?</table>', page, re.S)
    # images made for a at 16/255, judged by a and by b
    line = re.findall(r'<tr data-model="a" data-attack="16/255".*?</tr>', table, re.S)
    shown = [float(v) for v in re.findall(r'data-value="([^"]+)"', line[0])]
    stored = store.Store(done)
    for value, (model, attack) in zip(shown, [("a", "fgsm"), ("b", "fgsm<-a")], strict=True):
        success = stored.read(["success"], model=model, attack=attack, eps=16 / 255)["success"]
        assert value == pytest.approx(1 - success.mean())
    # images that were made before search nothing
    assert "images broken against queries" not in page


def test_a_second_call_has_nothing_to_do(done, runs, capsys):
    assert main(["transfer", "--runs", *runs, "--out", done, *TRANSFER]) == 0
    said = capsys.readouterr().out
    assert "nothing to do" in said
    assert "Transfer of fgsm" in said
    assert re.search(r"made for +budget +a +b", said)


def test_what_is_lost_is_made_again(done, runs):
    before = store.Store(done).read(model="a", attack="fgsm<-b", eps=4 / 255)
    parts = store.Store(done).manifest["parts"]
    (part,) = (p for p in parts if p["key"] == f"a/fgsm<-b/{4 / 255!r}/0")
    os.unlink(f"{done}/{part['file']}")
    assert main(["transfer", "--runs", *runs, "--out", done, *TRANSFER]) == 0
    after = store.Store(done).read(model="a", attack="fgsm<-b", eps=4 / 255)
    np.testing.assert_array_equal(after["loss"], before["loss"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--attacks", "autoattack"], "autoattack"),
        (["--restarts", "2"], "restarts"),
    ],
)
def test_what_cannot_be_is_refused(runs, tmp_path, capsys, words, said):
    out = str(tmp_path / "out")
    assert main(["transfer", "--runs", *runs, "--out", out, *TRANSFER, *words]) == 1
    assert said in capsys.readouterr().err


def test_one_run_is_too_few(runs, tmp_path, capsys):
    assert main(["transfer", "--runs", runs[0], "--out", str(tmp_path / "out"), *TRANSFER]) == 1
    assert "two runs" in capsys.readouterr().err


def test_a_perturbation_is_trained_from_the_command_line(runs, tmp_path, capsys):
    # on linear models, what it should find is in test_trained.py
    words = ["evaluate", "--runs", runs[0], "--out", str(tmp_path), "--epsilons", "8/255"]
    words += ["--attacks", "uap:version=sign,images=8,epochs=2", "universal", "--panels", "2"]
    assert main([*words, "--bootstrap", "20"]) == 0
    said = capsys.readouterr().out
    assert "a uap-sign-images8-epochs2 8/255: trained on 8 training images in" in said
    assert "universal-random" in said
    rows = store.Store(tmp_path).read(attack="uap-sign-images8-epochs2")
    np.testing.assert_allclose(rows["linf"], 8 / 255, rtol=1e-4)
    assert main([*words, "--bootstrap", "20"]) == 0
    assert "nothing to do" in capsys.readouterr().out
