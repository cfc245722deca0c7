"""A PyTorch checkpoint in place of a run."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from advjax import models, store
from advjax.cli import _torch, main
from advjax.cli._checks import check_evaluation
from advjax.cli._torch import torch_subject
from advjax.config import DataConfig, EvaluateConfig
from tests.data.made import arrays
from tests.models.torch_files import state_of, write

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAST = ["--attacks", "fgsm", "--epsilons", "8/255", "--bootstrap", "20", "--panels", "0"]
GOOD = EvaluateConfig(
    out="runs/out", torch_weights="net.pt", model="resnet18", data=DataConfig(source="npz:x.npz")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of three classes, and images."""
    folder = tmp_path_factory.mktemp("torch")
    options = {"depth": 10, "widen": 1, "width": 16}
    state = state_of("wrn28_10", options, classes=3)[0]
    state |= {k: np.abs(v) + 0.5 for k, v in state.items() if k.endswith("running_var")}
    write(folder / "net.safetensors", state)
    np.savez_compressed(folder / "rgb.npz", **arrays())
    np.savez_compressed(folder / "grey.npz", **arrays(channels=1))
    np.savez_compressed(folder / "more.npz", **arrays(classes=4))
    return folder


def words_for(folder, data="rgb.npz", model="wrn28_10"):
    return ["evaluate", "--torch-weights", str(folder / "net.safetensors"), "--model", model,
            "--data", f"npz:{folder / data}"]  # fmt: skip


def test_a_checkpoint_is_evaluated_on_a_source(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*words_for(folder), "--out", str(out), *FAST]) == 0
    said = capsys.readouterr().out
    assert "wrn10_1, 3 outputs; pixels are normalised by mean 0.485 0.456 0.406, std 0.229" in said
    rows = store.Store(str(out)).read()
    assert set(rows["model"]) == {"net"}
    clean = rows["attack"] == "none"
    assert clean.sum() == 6
    model, variables = models.load_torch("wrn28_10", folder / "net.safetensors", mean=MEAN, std=STD)
    x = np.asarray(arrays()["test_images"], np.float32) / 255
    want = jax.nn.softmax(jax.jit(model.apply)(variables, x))
    order = np.argsort(rows["example_id"][clean])
    np.testing.assert_allclose(rows["probabilities"][clean][order], want, atol=1e-5)
    told = json.loads((out / "config.json").read_text())["config"]
    assert told["model"] == "wrn28_10"
    assert told["data"]["source"] == f"npz:{folder / 'rgb.npz'}"
    assert main(["evaluate", str(out / "config.json")]) == 0  # its config says all
    assert "nothing to do" in capsys.readouterr().out


def test_grey_images_are_repeated(folder, capsys):
    config = dataclasses.replace(
        GOOD, torch_weights=str(folder / "net.safetensors"), model="wrn28_10", mean=(0.5,),
        std=(0.25,), data=DataConfig(source=f"npz:{folder / 'grey.npz'}"),
    )  # fmt: skip
    subject = torch_subject(config)
    said = capsys.readouterr().out
    assert "grey images are repeated for 3 channels" in said
    assert "mean 0.5, std 0.25" in said
    seen = {}

    def apply(variables, x):
        seen.update(x=x, variables=variables)

    repeated = _torch._repeated(apply, 3)
    x = np.random.default_rng(0).random((2, 4, 4, 1)).astype(np.float32)
    repeated("weights", x)
    np.testing.assert_array_equal(seen["x"], np.repeat(x, 3, axis=-1))
    assert seen["variables"] == "weights"
    output = jax.eval_shape(subject.apply, subject.variables, np.zeros((2, 8, 8, 1), np.float32))
    assert output.shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        ("more.npz", [], "gives 3 outputs, but npz:.*more.npz has 4 classes"),
        ("rgb.npz", ["--model", "resnet18"], "no weights of resnet18: it has conv1.weight"),
        ("rgb.npz", ["--mean", "0.1", "0.2", "--std", "1"], "mean: give 1 or 3 numbers, got 2"),
        ("rgb.npz", ["--split", "other"], "split 'other' is not in"),
    ],
)
def test_what_does_not_fit_is_named(folder, tmp_path, capsys, data, more, words):
    out = tmp_path / "out"
    if "resnet18" in more:
        write(folder / "odd.safetensors", {"a": np.ones(3, np.float32)})
        more = [*more, "--torch-weights", str(folder / "odd.safetensors")]
    assert main([*words_for(folder, data), "--out", str(out), *FAST, *more]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("advjax:")]
    assert re.search(words, line), line
    assert not out.exists()


def test_a_network_of_masks_is_evaluated_too(tmp_path, capsys):
    state = state_of("unet", {"width": 2}, classes=2)[0]
    write(tmp_path / "masks.safetensors", state)
    words = ["evaluate", "--torch-weights", str(tmp_path / "masks.safetensors"), "--model", "unet"]
    words += ["--data", "phantom:dermoscopy", "--data.size", "16", "--data.num-train", "8"]
    words += ["--data.num-val", "4", "--data.num-test", "4", "--out", str(tmp_path / "out")]
    assert main([*words, *FAST]) == 1
    assert "unet gives pixels, but phantom:dermoscopy is data for" in capsys.readouterr().err
    assert main([*words, *FAST, "--data.task", "segmentation"]) == 0
    rows = store.Store(str(tmp_path / "out")).read()
    assert (rows["attack"] == "none").sum() == (rows["attack"] == "fgsm").sum() == 4


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"runs": ("runs/k",)}, "torch_weights: evaluates one PyTorch model"),
        ({"model": None}, "model: which architecture"),
        ({"model": "resnet"}, "'resnet' is unknown; did you mean"),
        ({"model": "centernet"}, "centernet gives neither labels nor masks"),
        ({"data": DataConfig(source="")}, "data.source: on which images"),
        ({"mean": (0.5,)}, "mean, std: give both or neither"),
        ({"mean": (0.5,), "std": (0.0,)}, "std: must be positive"),
        ({"model": "inception_v3"}, "transform_input"),
        ({"torch_weights": None}, "model: is for torch_weights only"),
        ({"torch_weights": None, "model": None}, "data.source: is for torch_weights only"),
    ],
)
def test_impossible_requests(fields, match):
    check_evaluation(GOOD)
    with pytest.raises(ValueError, match=match):
        check_evaluation(dataclasses.replace(GOOD, **fields))
