"""Success against queries, of attacks that see no gradient."""

import numpy as np

from advjax import report
from advjax.report import _doubts, _queries, _results
from tests.report import fake


def test_curves_are_of_black_boxes_only_and_count_what_is_right(tmp_path):
    store = fake.write_results(
        tmp_path, attacks=("pgd", "square"), epsilons=(2 / 255, 4 / 255, 8 / 255), panels=0
    )
    (group,) = _results.load(tmp_path).groups
    found = list(_queries.curves(group, ["pgd", "square"]))
    assert [(c.attack, c.model) for c in found] == [("square", 0), ("square", 1)]
    rows = store.read(model="standard", attack="square", eps=4 / 255)
    right = ~rows["wrong_when_clean"]
    for asked, share in zip(found[0].queries, found[0].share, strict=True):
        broken = rows["success"] & right & (rows["num_queries"] <= asked)
        assert share == broken.sum() / right.sum()
    assert found[0].share[0] == 0
    assert found[0].share[-1] == (rows["success"] & right).sum() / right.sum()


def test_what_a_smaller_budget_broke_counts_with_its_queries():
    success = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    evaluated = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]], bool)
    queries = np.array([[5, 9, 0, 0], [0, 7, 9, 9], [0, 0, 3, 9]])
    fields = dict.fromkeys(_results.Cell._fields)
    cell = _results.Cell(**{**fields, "success": success, "evaluated": evaluated,
                            "queries": queries})  # fmt: skip
    np.testing.assert_array_equal(_queries._needed(cell, 1), [5, 7, np.inf, np.inf])
    np.testing.assert_array_equal(_queries._needed(cell, 2), [5, 7, 3, np.inf])


def test_the_page_shows_them(tmp_path):
    fake.write_results(tmp_path, attacks=("pgd", "square"), epsilons=(2 / 255, 8 / 255), panels=0)
    page = report.build(tmp_path).read_text()
    assert "images broken against queries" in page
    assert "queries of the model, for one image" in page
    assert "square at 8/255" in page
    fake.write_results(tmp_path / "plain", attacks=("pgd",), epsilons=(2 / 255,), panels=0)
    assert "against queries" not in report.build(tmp_path / "plain").read_text()


def test_the_page_says_what_each_attack_of_a_cascade_broke(tmp_path):
    store = fake.write_results(tmp_path, attacks=("autoattack",), epsilons=(2 / 255,), panels=0)
    broken = {"clean": 3, "apgd-ce": 40, "apgd-t": 2, "fab-t": 0, "square": 1, "robust": 82}
    told = {"standard": {"autoattack": {"broken_by": broken, "notes": ["two classes: margins"]}}}
    store.write_manifest(extra={"cascades": told})
    page = report.build(tmp_path).read_text()
    assert "autoattack on standard: wrong when clean 3, apgd-ce 40, apgd-t 2, fab-t 0" in page
    assert "Two classes: margins." in page


WRONG = np.array([0, 0, 0, 0, 0, 1], bool)


def _rows(eps, success, num_grads):
    fields = dict.fromkeys(_results.Cell._fields) | {"wrong": WRONG}
    told = {"eps": np.array(eps), "success": np.array(success, bool), "num_grads": num_grads}
    return _results.Cell(**{**fields, **told})


def test_a_black_box_that_breaks_more_than_gradients_do_is_a_doubt():
    # of the last right image the gradient attack fails below, and at no larger budget than square
    pgd = _rows([0.01, 0.02], [[1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1]], 90)
    square = _rows([0.01, 0.02], [[1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 1, 1]], 0)
    norms = {"pgd": "linf", "square": "linf", "ddn": "l2"}

    def said(**attacks):
        return _doubts._misled(_results.ModelRows("net", WRONG, None, attacks), norms)

    (line,) = said(pgd=pgd, square=square)
    assert line.startswith("square on net broke 3 of 5 images")
    assert said(pgd=square._replace(num_grads=9), square=square) == []
    # an attack with a criterion of its own is no measure of another one
    assert said(pgd=pgd._replace(wrong=np.zeros(6, bool)), square=square) == []
    # another norm says nothing, nor does an attack that stopped at a smaller budget
    assert said(ddn=pgd, square=square) == []
    small = _rows([0.01], [[1, 1, 0, 0, 0, 1]], 90)
    assert said(pgd=small, square=square) == []
    assert said(square=square) == []
