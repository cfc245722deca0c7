"""Criteria and goals of attacks in rows and reports: each attack judges by its own."""

import numpy as np
import pytest

from advjax import report, store
from advjax.cli import main

pytestmark = pytest.mark.unoptimised

ATTACKS = (
    "pgd:num_steps=2", "pgd:num_steps=2,criterion=all", "pgd:num_steps=2,goal=hide-Mass",
    "pgd:num_steps=2,criterion=flips2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of findings that is hardly trained: no image is right in all fourteen."""
    out = str(tmp_path_factory.mktemp("runs") / "xray")
    words = ["--data.source", "phantom:xray", "--data.size", "16", "--data.num-train", "64"]
    words += ["--data.num-val", "16", "--data.num-test", "12", "--model.name", "small_cnn"]
    words += ["--model.width", "4", "--epochs", "1", "--batch-size", "16", "--val-examples", "0"]
    assert main(["train", "--out", out, *words]) == 0
    return out


def by_hand(rows, attack):
    """Return which clean images an attack counts as broken, from their stored outputs."""
    clean = rows["attack"] == "none"
    said, true = rows["probabilities"][clean] > 0.5, rows["target"][clean]
    wrong = said != (true > 0)
    if attack == "pgd-2":
        return wrong.any(1)
    if attack.endswith("all"):
        return wrong.all(1)
    if attack.endswith("flips2"):
        return wrong.sum(1) >= 2
    mass = 4
    return (true[:, mass] > 0) & ~said[:, mass]


@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_clean_images_are_judged_by_the_criterion_of_the_attack(run, tmp_path, command):
    words = ["--runs", run, "--attacks", *ATTACKS, "--epsilons", "2/255", "--panels", "0"]
    assert main([command, "--out", str(tmp_path), *words, "--bootstrap", "50"]) == 0
    rows = store.Store(tmp_path).read()
    names = sorted(set(rows["attack"]) - {"none"})
    assert len(names) == 4
    order = np.argsort(rows["example_id"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    shares = {}
    for name in names:
        at = rows["attack"] == name
        wrong = by_hand(rows, name)
        np.testing.assert_array_equal(rows["wrong_when_clean"][at], wrong, err_msg=name)
        shares[name] = 100 * (1 - wrong.mean())
    assert shares["pgd-2-all"] == 100 > shares["pgd-2"]
    # the table of whole images has the clean share of each attack
    text = report.summary_table(str(tmp_path))
    for name in names[1:]:
        assert f"note: {name} has its own word for broken (" in text, name
    assert "every finding right at once (attacks with a goal or criterion: by that)" in text
    lines = [line.split() for line in text[text.index("at once") :].splitlines()]
    for name in names:
        (line,) = (line for line in lines if name in line and line[0] != "note:")
        assert float(line[line.index(name) + 1]) == pytest.approx(shares[name], abs=0.06), name
    page = (tmp_path / "report.html").read_text()
    # a sweep attacks no image that is wrong already, so that it knows nothing of single findings
    blind = command == "sweep"
    assert ("Robust accuracy of decisions" in text) is not blind
    assert ("note: phantom:xray: a sweep or AutoAttack ends where an image breaks" in text) is blind
    assert ("Robust accuracy of decisions" in page) is not blind
    told = {name: f"{name} has its own word for broken (" in page for name in names}
    assert told == {name: name != "pgd-2" for name in names}
    assert "(goal hide-Mass)" in page
