"""Tables of classes of pixels and of findings beside each other, against the rows by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from advjax import report, store
from advjax.report import _format, _parts
from tests.report.fake import write_results
from tests.report.page import Page

FINDINGS = ("Mass", "Edema", "Nodule", "Hernia", "Fibrosis")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("findings")
    write_results(
        out, models=("net",), attacks=("pgd",), epsilons=(2 / 255, 8 / 255), class_names=FINDINGS,
        task="multi", panels=0, bootstrap=20,
    )  # fmt: skip
    report.build(out)
    return out


@pytest.fixture(scope="module")
def rows(folder):
    """Outputs `[N, K]` at budgets 0, 2 and 8 of 255, and the truth, in the order of the images."""
    found = store.Store(folder).read()
    order = np.argsort(found["example_id"], kind="stable")
    found = {name: column[order] for name, column in found.items()}
    outputs = []
    for eps in (0.0, 2 / 255, 8 / 255):
        at = np.abs(found["eps"] - eps) < 1e-9
        outputs.append(found["probabilities"][at].astype(np.float64))
    clean = found["attack"] == "none"
    return outputs, found["target"][clean] > 0


def lines(folder, key):
    (table,) = (
        t for t in Page((folder / "report.html").read_text()).tables if t.get("data-metric") == key
    )
    return {
        row["cells"][-4]["text"].strip(): [float(c["data-value"]) for c in row["cells"][-3:]]
        for row in table["rows"]
        if "data-value" in row["cells"][-1]
    }


def test_findings_that_are_told_together(folder, rows):
    outputs, truth = rows
    found = lines(folder, "together")
    assert len(found) == 7
    pairs = {
        f"pgd, {FINDINGS[i]} and {FINDINGS[j]} ({(truth[:, i] & truth[:, j]).sum()})": (i, j)
        for i in range(5)
        for j in range(i + 1, 5)
    }
    shown = [name for name in found if name in pairs]
    assert len(shown) == 5
    for name in shown:
        i, j = pairs[name]
        wanted = [((p[:, i] > 0.5) & (p[:, j] > 0.5)).sum() for p in outputs]
        assert found[name] == wanted, name
    # an image with k findings has k (k - 1) / 2 pairs
    several = [(p > 0.5).sum(1) for p in (truth, *outputs)]
    every = [int((k * (k - 1) // 2).sum()) for k in several]
    single = [int((k == 1).sum()) for k in several]
    assert found[f"pgd, all pairs ({every[0]})"] == every[1:]
    assert found[f"pgd, one finding only ({single[0]})"] == single[1:]


def test_correlation_with_the_clean_outputs(folder, rows):
    outputs, _ = rows
    found = lines(folder, "correlation")
    assert len(found) == 6
    each = np.array([
        [np.corrcoef(outputs[0][:, k], p[:, k])[0, 1] for p in outputs] for k in range(5)
    ])  # fmt: skip
    np.testing.assert_allclose(found["pgd, mean"], each.mean(0), rtol=1e-5)
    for k, name in enumerate(FINDINGS):
        np.testing.assert_allclose(found[f"pgd, {name}"], each[k], rtol=1e-5)
    assert found["pgd, mean"][0] == pytest.approx(1)
    assert found["pgd, mean"][2] < 0.9


def masks(truth, said):
    """Return pixels in both, told, and true, of two classes, as rows hold them, `[N, 6]`."""
    counts = [[(truth == k) & (said == k), said == k, truth == k] for k in (0, 1)]
    return np.array(counts).sum((-1, -2)).transpose(2, 0, 1).reshape(len(truth), 6).astype(float)


def test_dice_and_iou_of_each_class_of_pixels():
    rng = np.random.default_rng(0)
    truth, clean, attacked = rng.integers(0, 2, (3, 4, 6, 6))
    cell = lambda said, eps: SimpleNamespace(
        eps=np.array([eps]), probabilities=masks(truth, said)[None]
    )
    net = SimpleNamespace(name="net", clean=cell(clean, 0.0), attacks={"pgd": cell(attacked, 0.1)})
    group = SimpleNamespace(
        masks=True, boxes=False, multi=False, models=[net], class_names=("background", "polyp")
    )
    statistics = SimpleNamespace(
        group=group, chosen={"linf": np.array([0.0, 0.1])},
        series=[SimpleNamespace(attack="pgd", norm="linf")],
    )  # fmt: skip
    dice, iou = _parts.tables(statistics, "linf")
    found = {row.attack: [entry.value for entry in row.entries] for row in iou.rows}
    both = {}
    for k, name in enumerate(group.class_names):
        both[name] = [
            ((truth == k) & (said == k)).sum() / ((truth == k) | (said == k)).sum()
            for said in (clean, attacked)
        ]
        np.testing.assert_allclose(found[f"pgd, {name}"], both[name])
    np.testing.assert_allclose(found["pgd, mean of the classes"], np.mean([*both.values()], 0))
    # Dice follows from IoU
    halves = {row.attack: [entry.value for entry in row.entries] for row in dice.rows}
    for name, values in both.items():
        np.testing.assert_allclose(halves[f"pgd, {name}"], [2 * v / (1 + v) for v in values])
    assert len(halves) == 2


def test_what_was_not_attacked_says_nothing_of_single_findings(tmp_path):
    """Rows of a sweep hold clean outputs where an image was wrong already."""
    options = {"models": ("net",), "epsilons": (2 / 255, 8 / 255), "class_names": FINDINGS,
               "task": "multi", "panels": 0, "bootstrap": 20}  # fmt: skip
    out = write_results(tmp_path, attacks=("pgd",), **options)
    rows = out.read(attack="pgd")
    largest = rows["eps"] > 4 / 255
    rows["evaluated"] = ~(rows["wrong_when_clean"] & largest)
    assert not rows["evaluated"].all()
    out.write(rows, key="phantom:dermoscopy net pgd", overwrite=True)
    page = Page(report.build(tmp_path).read_text())
    assert "Robust accuracy of decisions" not in page.words
    found = lines(tmp_path, "correlation")
    assert not found  # every line lacks its last number
    (table,) = (t for t in page.tables if t.get("data-metric") == "auroc")
    shown = [c["text"].split()[0] for row in table["rows"][1:] for c in row["cells"][-3:]]
    assert [text == _format.MISSING for text in shown[-3:]] == [False, False, True]
    text = report.summary_table(tmp_path)
    assert "of the clean images right" in text
    assert "note: phantom:dermoscopy: a sweep or AutoAttack ends where an image breaks" in text
    # whole images are known: as many broken as the rows say
    first, last = (e for e in report.summary(tmp_path) if e["eps"] > 0)
    assert first["robust_accuracy"] >= last["robust_accuracy"]
    broken = rows["success"] | rows["wrong_when_clean"]
    assert last["accuracy_under_attack"] == pytest.approx(1 - broken[largest].mean())


@pytest.mark.parametrize("order", ["search", "ascending", "exhaustive"])
def test_an_attack_that_ended_at_its_first_success_says_nothing_either(tmp_path, order):
    """Though every image was attacked at every budget."""
    options = {"models": ("net",), "epsilons": (2 / 255, 8 / 255), "class_names": FINDINGS,
               "task": "multi", "panels": 0, "bootstrap": 20}  # fmt: skip
    out = write_results(tmp_path, attacks=("pgd",), **options)
    out.write_manifest(config={**out.manifest["config"], "order": order})
    whole = order == "exhaustive"
    page = Page(report.build(tmp_path).read_text())
    assert ("Robust accuracy of decisions" in page.words) is whole
    assert bool(lines(tmp_path, "correlation")) is whole
    assert ("columns cannot be compared" in page.words) is not whole
    assert ("note:" in report.summary_table(tmp_path)) is not whole


def test_auroc_of_each_finding(folder, rows):
    outputs, truth = rows
    found = lines(folder, "auroc-finding")
    assert len(found) == 5
    for k, name in enumerate(FINDINGS):
        wanted = [
            np.mean([(a > b) + (a == b) / 2 for a in p[truth[:, k], k] for b in p[~truth[:, k], k]])
            for p in outputs
        ]
        np.testing.assert_allclose(found[f"pgd, {name}"], wanted, rtol=1e-6)


def test_a_model_that_says_nothing_is_called_that_in_a_sweep_too(tmp_path):
    options = {"models": ("net",), "epsilons": (2 / 255,), "class_names": FINDINGS,
               "task": "multi", "panels": 0, "bootstrap": 20}  # fmt: skip
    out = write_results(tmp_path, attacks=("pgd",), **options)
    out.write_manifest(config={**out.manifest["config"], "order": "search"})
    clean = out.read(attack="none")
    clean["probabilities"] = np.full_like(clean["probabilities"], 0.1)
    out.write(clean, key="phantom:dermoscopy net none", overwrite=True)
    share = (clean["target"] == 0).mean()
    words = Page(report.build(tmp_path).read_text()).words
    percent = f"{100 * share:.1f}"
    assert f"gets {percent} % of the decisions right without any attack" in words.replace(
        chr(160), " "
    )


def test_cards_of_images_go_by_the_rows(tmp_path):
    """An attack with a word of its own for broken judges the clean image by it, too."""
    options = {"models": ("net",), "epsilons": (4 / 255,), "class_names": FINDINGS,
               "task": "multi", "panels": 4, "bootstrap": 20}  # fmt: skip
    out = write_results(tmp_path, attacks=("pgd",), **options)
    rows = out.read(attack="pgd")
    rows["wrong_when_clean"][:], rows["success"][:] = False, False
    out.write(rows, key="phantom:dermoscopy net pgd", overwrite=True)
    words = Page(report.build(tmp_path).read_text()).words
    assert "withstood the attack" in words
    assert "wrong before the attack" not in words
    rows["wrong_when_clean"][:], rows["success"][:] = True, True
    out.write(rows, key="phantom:dermoscopy net pgd", overwrite=True)
    words = Page(report.build(tmp_path).read_text()).words
    assert "withstood the attack" not in words
    assert "wrong before the attack" in words
