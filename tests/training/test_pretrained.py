"""Training from given weights: of another run, or of a PyTorch checkpoint."""

import dataclasses
import shutil

import chex
import jax
import numpy as np
import pytest

from advjax import data, models, training
from advjax.config import DataConfig, ModelConfig
from advjax.training import _loop
from advjax.training._state import eval_variables
from tests.models.torch_files import state_of, write
from tests.training.runs import CLASSES, train
from tests.training.test_loop import _leaves
from tests.training.tiny import tiny_model


@pytest.fixture
def start(make, tiny):
    """A finished run whose average is not its parameters."""
    config = make("start", epochs=2, ema=0.5)
    train(config)
    return config


def first_state(config):
    job = _loop.prepare(config, data.load(config.data))
    return job, job.init(job.pretrained)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_starts_at_the_best_checkpoint_of_another(make, start, ema):
    wanted = training.restore_model(start.out)[1]
    job, state = first_state(make("run", pretrained=start.out, ema=ema, seed=3))
    chex.assert_trees_all_equal(
        {"params": state.params, **state.model_state}, eval_variables(state), wanted
    )
    assert int(state.step) == 0
    drawn = job.init(None)
    assert (drawn.params["first"]["kernel"] != state.params["first"]["kernel"]).any()
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn, state)


def test_a_killed_run_goes_on_without_the_weights_it_started_from(make, start, tmp_path):
    config = make("run", pretrained=start.out, epochs=2)
    train(config)
    whole = _leaves(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    shutil.rmtree(start.out)
    assert train(config).resumed_from == 1
    chex.assert_trees_all_close(_leaves(tmp_path / "run"), whole, atol=1e-6)


def test_runs_that_train_together_start_there_too(make, start, tmp_path):
    configs = [make(f"run{k}", pretrained=start.out, seed=k, epochs=1) for k in range(2)]
    training.train_many(configs, stack="map", progress=False)
    alone = dataclasses.replace(configs[1], out=str(tmp_path / "alone"))
    train(alone)
    chex.assert_trees_all_close(_leaves(tmp_path / "run1"), _leaves(tmp_path / "alone"), atol=1e-5)


def test_a_last_layer_of_other_outputs_is_drawn_anew(make, start, tmp_path, capsys):
    with np.load(start.data.source.removeprefix("npz:")) as arrays:
        fewer = {k: np.minimum(v, 2) if "labels" in k else v for k, v in arrays.items()}
    np.savez(tmp_path / "fewer.npz", **fewer)
    config = make("run", pretrained=start.out, data=DataConfig(source=f"npz:{tmp_path}/fewer.npz"))
    _, state = first_state(config)
    before = training.restore_model(start.out)[1]
    said = f"params/second/bias, params/second/kernel of 3 outputs, not {CLASSES}: drawn anew"
    assert said in capsys.readouterr().out
    assert state.params["second"]["kernel"].shape == (8, 3)
    chex.assert_trees_all_equal(state.params["first"], before["params"]["first"])
    chex.assert_trees_all_equal(state.model_state["batch_stats"], before["batch_stats"])
    assert np.ptp(state.params["second"]["kernel"]) > 0


def test_what_does_not_fit_is_refused_before_anything_is_written(
    make, start, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match=r"pretrained: .*nowhere is not there; name the"):
        train(make("run", pretrained=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="is no training run"):
        train(make("run", pretrained=str(tmp_path)))
    # equal shapes, another function
    for field, value in (("mean", 0.4), ("std", (0.2, 0.25, 0.25))):
        model = dataclasses.replace(start.model, **{field: value})
        with pytest.raises(ValueError, match=f"model.{field} is .* there and .* here"):
            train(make("run", pretrained=start.out, model=model))
    tiny, other = tiny_model(CLASSES), models.ZOO["small_cnn"](CLASSES, width=8)
    monkeypatch.setattr(
        models, "build", lambda config, num_classes: tiny if config.width == 4 else other
    )
    wide = ModelConfig(name="small_cnn", width=8)
    with pytest.raises(ValueError, match=r"small_cnn, width 4, .*another network .*is not there"):
        train(make("run", pretrained=start.out, model=wide))
    assert not (tmp_path / "run").exists()


def test_weights_of_pytorch(make, tmp_path):
    options = {"depth": 10, "widen": 1, "width": 16}
    state = state_of("wrn28_10", options, classes=4)[0]
    state |= {k: np.abs(v) + 0.5 for k, v in state.items() if k.endswith("running_var")}
    file = write(tmp_path / "net.safetensors", state)
    _, given = models.load_torch("wrn28_10", file)
    fresh = models.ZOO["wrn28_10"](CLASSES, **options)
    config = make("run", model=ModelConfig(name="wrn28_10"), pretrained=str(file))
    job = _loop.prepare(config, data.load(config.data), fresh)
    params = job.pretrained["params"]
    same = jax.tree.map(lambda a, b: a.shape == b.shape and bool((a == b).all()), params,
                        given["params"])  # fmt: skip
    other = [jax.tree_util.keystr(p) for p, hit in jax.tree_util.tree_leaves_with_path(same)
             if not hit]  # fmt: skip
    assert len(other) == 2, other
    chex.assert_trees_all_equal(job.pretrained["batch_stats"], given["batch_stats"])
    assert models.torch_stem("wrn28_10", file) is None
    with pytest.raises(ValueError, match=r"wrn28_10 of PyTorch, 3 channels\) has another network"):
        _loop.prepare(config, data.load(config.data), models.ZOO["wrn28_10"](CLASSES, width=16))


def test_an_inception_of_pytorch_has_its_published_stem(make, tmp_path):
    state = state_of("inception_v3", {"width": 4, "stem": "imagenet"}, classes=CLASSES)[0]
    file = write(tmp_path / "net.safetensors", state)
    assert models.torch_stem("inception_v3", file) == "imagenet"
    config = make("run", model=ModelConfig(name="inception_v3", width=4), pretrained=str(file))
    with pytest.raises(ValueError, match=r"model.stem is imagenet there and cifar here"):
        _loop.prepare(config, data.load(config.data))


def test_grey_images_start_from_kernels_of_three_channels(make, tmp_path, capsys):
    options = {"depth": 10, "widen": 1, "width": 16}
    state = state_of("wrn28_10", options, classes=CLASSES)[0]
    state |= {k: np.abs(v) + 0.5 for k, v in state.items() if k.endswith("running_var")}
    file = write(tmp_path / "net.safetensors", state)
    three, given = models.load_torch("wrn28_10", file, mean=0.4, std=0.3)
    config = make("run", model=ModelConfig(name="wrn28_10"), pretrained=str(file))
    with np.load(config.data.source.removeprefix("npz:")) as arrays:
        grey = {k: v[..., :1] if "images" in k else v for k, v in arrays.items()}
    np.savez(tmp_path / "grey.npz", **grey)
    images = DataConfig(source=f"npz:{tmp_path}/grey.npz")
    config = dataclasses.replace(config, data=images)
    one = models.ZOO["wrn28_10"](CLASSES, **options, mean=0.4, std=0.3)
    job = _loop.prepare(config, data.load(config.data), one)
    assert "added up over the channels, for grey images" in capsys.readouterr().out
    x = grey["test_images"][:4].astype(np.float32) / 255
    # as if the image were in every channel
    wanted = three.apply(given, np.repeat(x, 3, -1))
    np.testing.assert_allclose(one.apply(job.pretrained, x), wanted, rtol=1e-4, atol=1e-4)
