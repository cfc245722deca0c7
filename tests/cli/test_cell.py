"""What a sweep keeps of one model under one attack."""

from types import SimpleNamespace

import numpy as np
import pytest

from advjax.cli._cell import Cell, Clean
from advjax.config import SweepConfig
from advjax.engine import Finished, Flag
from advjax.store import Store


@pytest.fixture
def cell(tmp_path):
    """A sweep of six images at three budgets; the second one is shown."""
    images = np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    split = SimpleNamespace(ids=np.arange(6), targets=np.arange(6) % 2, images=images)
    dataset = SimpleNamespace(name="data", task="single", num_classes=2)
    subject = SimpleNamespace(name="model", dataset=dataset, split=split)
    job = SimpleNamespace(subject=subject, spec=SimpleNamespace(cost=None))
    clean = Clean(np.zeros(6, bool), np.full((6, 2), 0.5), np.full(6, 0.5), np.zeros(6))
    config = SweepConfig(epsilons=(0.1, 0.2, 0.3), panels=1)
    return Cell(Store(tmp_path, identity={}), job, "pgd", config, clean)


def ended(cell, verdict, name="loss_not_rising"):
    """Conclude a sweep that had this doubt, and return the doubts that are stored."""
    cell.job.spec.cost = SimpleNamespace(backwards=1, forwards=1)
    trust = SimpleNamespace(flags=(Flag(name, 1, 2, verdict, f"{verdict} words"),))
    cell.conclude(SimpleNamespace(rows_computed=7, rows_probed=1, trust=trust), 2.0)
    return [(line[2], line[3]) for line in cell.rows.manifest["extra"]["trust"]]


def test_the_graver_doubt_stands_whichever_was_first(cell):
    cell.config = SweepConfig(panels=0)
    assert ended(cell, "suspicious") == [("suspicious", "loss_not_rising")]
    assert ended(cell, "unreliable") == [("unreliable", "loss_not_rising")]
    assert ended(cell, "suspicious") == [("unreliable", "loss_not_rising")]
    assert ended(cell, "ok") == [("unreliable", "loss_not_rising")]
    assert ended(cell, "suspicious", "other")[1] == ("suspicious", "other")
    cost = cell.rows.manifest["extra"]["cost"]["model"]["pgd"]
    assert (cost["backwards"], cost["seconds"]) == (40, 10.0)


def finished(examples, budgets, verified):
    """Return finished runs whose images hold the number of the run."""
    count = len(examples)
    x = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    zeros = np.zeros(count, np.float32)
    found = dict.fromkeys(Finished._fields, zeros)
    found |= {
        "restart": np.zeros(count, int), "budget": np.array(budgets), "x": x,
        "verified": np.array(verified), "output": np.tile(np.float32([0, 1]), (count, 1)),
    }  # fmt: skip
    return Finished(**found)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_outputs_are_kept_for_any_number_of_runs(cell, count):
    examples = np.arange(count)
    cell.take(finished(examples, [1] * count, [True] * count), examples)
    np.testing.assert_allclose(cell.probabilities[:count, 0, 1, 1], 1 / (1 + np.exp(-1)), rtol=1e-6)
    assert (cell.probabilities[count:] == 0).all()


def test_images_to_look_at_are_of_the_shown_budget(cell):
    examples = np.array([0, 1, 2, 3, 0])
    cell.take(finished(examples, [0, 2, 0, 1, 1], [True, True, False, False, True]), examples)
    # 1 is beyond the shown budget, 2 failed below it; of 0 the later success stands
    assert {k: float(v.squeeze()) for k, v in cell.images.items()} == {0: 4.0, 3: 3.0}
