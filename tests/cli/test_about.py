"""Images that nothing can break are counted, and said before any number."""

import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data, report, store
from advjax.cli import _evaluate, _transfer
from advjax.cli._about import extra_of
from advjax.cli._subjects import Subject, plan
from advjax.config import EvaluateConfig
from tests.report.page import Page

SHAPE = (4, 4, 1)
IMAGES = np.linspace(0, 1, 5 * 16, dtype=np.float32).reshape(5, *SHAPE)
FINDINGS = np.array([[1, 0], [-1, -1], [0, 0], [-1, 1], [-1, -1]], np.int32)
MASKS = np.zeros((5, 4, 4), np.int32)
MASKS[2] = 255
MASKS[3, 1:] = 255
BOXES = np.full((5, 2, 5), -1, np.float32)
BOXES[:4, 0] = (0, 0.1, 0.1, 0.5, 0.5)


def subject(task, targets):
    def apply(variables, x):
        flat = x.reshape(len(x), -1)
        return jnp.stack([flat.mean(1), -flat.mean(1)], -1) * variables["scale"]

    split = data.Split(IMAGES, targets, np.arange(5, dtype=np.int32))
    dataset = data.Dataset("made", task, 2, ("a", "b"), SHAPE, {"test": split})
    return Subject("net", apply, apply, {"scale": jnp.float32(1)}, dataset, split)


def idle(task, targets, *attacks):
    jobs = plan(EvaluateConfig(attacks=attacks), [subject(task, targets)])
    return extra_of([subject(task, targets)], jobs, {})["idle"]


@pytest.mark.parametrize(
    ("task", "targets", "said"),
    [
        ("multi", FINDINGS, [("made", "have no known finding", 2, 5)]),
        ("segmentation", MASKS, [("made", "have a mask of ignored pixels only", 1, 5)]),
        ("detection", BOXES, [("made", "have no box", 1, 5)]),
        ("single", np.zeros(5, np.int32), []),
    ],
)
def test_targets_that_hold_nothing(task, targets, said, capsys):
    assert idle(task, targets, "fgsm", "pgd") == said
    told = capsys.readouterr().err
    assert told.count("warning") == len(said)
    assert all(f"{n} of {total} images {why}" in told for _, why, n, total in said)


def test_goals_that_reach_nothing():
    # the first finding is present once, and absent (known) once; two images have nothing known
    assert idle("multi", FINDINGS, "pgd:goal=hide-a")[1][2:] == (2, 5)
    assert idle("multi", FINDINGS, "pgd:goal=fabricate-b")[1][2:] == (1, 5)


def test_transfer_says_so_too(tmp_path, capsys):
    both = [subject("multi", FINDINGS)._replace(name=name) for name in ("a", "b")]
    config = EvaluateConfig(out=str(tmp_path), attacks=("fgsm",), epsilons=(0.1,))
    rows = _transfer._open(config, both, plan(config, both))
    (told,) = rows.manifest["extra"]["idle"]
    assert tuple(told) == ("made", "have no known finding", 2, 5)
    assert capsys.readouterr().err.count("2 of 5 images have no known finding") == 1


def test_the_report_says_so(tmp_path):
    one = subject("multi", FINDINGS)
    config = EvaluateConfig(out=str(tmp_path), attacks=("fgsm",), epsilons=(0.1,), panels=0)
    jobs = plan(config, [one])
    rows = store.Store(tmp_path, identity={"test": 1})
    rows.write_manifest(config=config, extra=extra_of([one], jobs, {"fgsm": "linf"}))
    _evaluate.run(config, jobs, rows)
    page = report.build(tmp_path)
    assert "made: 2 of 5 images have no known finding, and count as right" in page.read_text()
    assert Page(page.read_text()).outside == []
