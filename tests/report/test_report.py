"""Reports are made from fake results: what the page says must be what the rows say."""

import base64
import io
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import recall_score, roc_auc_score

from advjax import metrics, report
from advjax.report import _images, _statistics, _verdict
from advjax.report._results import load
from advjax.store import Store
from tests.report.fake import write_results
from tests.report.page import Page

EPSILONS = tuple(i / 510 for i in range(1, 17))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    write_results(out, num_examples=60, panels=2)
    report.build(out)
    return out


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def frame(folder):
    return pd.read_parquet(folder / "rows")


def small(tmp_path, **changes):
    """Write a small folder, build its report and return the parsed page."""
    settings = {
        "attacks": ("pgd",), "epsilons": (2 / 255, 4 / 255), "num_examples": 30, "panels": 0,
        "bootstrap": 40,
    }  # fmt: skip
    write_results(tmp_path, **{**settings, **changes})
    page = Page(report.build(tmp_path).read_text())
    assert page.outside == []
    assert page.open == []
    return page


def flags(frame, model, attack):
    """Return success [E, N] in increasing order of the budget, and wrong_when_clean [N]."""
    rows = frame[(frame.model == model) & (frame.attack == attack)]
    success = rows.pivot(index="eps", columns="example_id", values="success").sort_index()
    wrong = rows.drop_duplicates("example_id").set_index("example_id").wrong_when_clean
    return success.to_numpy(bool), wrong.sort_index().to_numpy(bool), success.index.to_numpy()


def cells(page, metric):
    """Yield (model, attack, cell) of a table."""
    found = [table for table in page.tables if table.get("data-metric") == metric]
    assert len(found) == 1
    for row in found[0]["rows"]:
        for cell in row["cells"]:
            if "data-value" in cell:
                yield row["data-model"], row["data-attack"], cell


def test_the_page_asks_for_nothing(page):
    assert page.outside == []
    assert page.open == []


@pytest.mark.parametrize(
    "bad",
    [
        '<img src="http://a.example/x.png">',
        '<img src="x.png">',
        '<a href="https://a.example">x</a>',
        '<link rel="icon" href="data:,">',
        "<script>1</script>",
        "<style>@import 'x.css';</style>",
        "<style>a { background: url(x.png) }</style>",
        '<p style="background:url(//a.example)">x</p>',
        '<svg><use xlink:href="x.svg#a"></use></svg>',
        '<p onclick="x()">x</p>',
        "<p>fetch('x')</p>",
        '<meta http-equiv="refresh" content="0; url=x">',
    ],
)
def test_the_check_of_references_can_fail(bad):
    assert Page(f"<html><body>{bad}</body></html>").outside


def test_both_figures_agree_with_the_rows(page, frame):
    attacks = [a for a in frame.attack.unique() if a != "none"]
    for which, figure in [
        ("robust", metrics.robust_accuracy),
        ("alone", metrics.accuracy_under_attack),
    ]:
        seen = 0
        for model, attack, cell in cells(page, which):
            names = attacks if attack == "all attacks" else [attack]
            several = [flags(frame, model, name) for name in names]
            success = np.any([s for s, _, _ in several], axis=0)
            wrong, eps = several[0][1], several[0][2]
            at = float(cell["data-eps"])
            expected = 1 - wrong.mean()
            if at > 0:
                expected = figure(success, wrong)[np.abs(eps - at).argmin()]
            assert float(cell["data-value"]) == pytest.approx(expected)
            assert cell["text"].startswith(f"{100 * expected:.1f}\u00a0%")
            assert float(cell["data-low"]) <= expected <= float(cell["data-high"])
            seen += 1
        assert seen == 2 * 6 * 5


def test_the_two_figures_are_never_mixed(page):
    robust = {key[:2]: c for *key, c in cells(page, "robust") for key in [tuple(key)]}
    assert set(robust) == {key[:2] for *key, _ in cells(page, "alone") for key in [tuple(key)]}
    titles = [t["rows"] and t["data-metric"] for t in page.tables if "data-metric" in t]
    assert titles.count("robust") == titles.count("alone") == 1
    for words in ("Robust accuracy: not broken at this or any smaller budget",
                  "Accuracy under attack: each budget alone"):  # fmt: skip
        assert words in page.words


def test_every_budget_is_in_the_long_table(page, frame):
    tables = [t for t in page.tables if t.get("data-metric") == "robust-all"]
    assert [t["data-model"] for t in tables] == ["standard", "pgd-trained"]
    success, wrong, eps = flags(frame, "standard", "pgd")
    expected = np.concatenate([[1 - wrong.mean()], metrics.robust_accuracy(success, wrong)])
    header = [cell["text"] for cell in tables[0]["rows"][0]["cells"]]
    column = header.index("pgd")
    got = [float(row["cells"][column]["data-value"]) for row in tables[0]["rows"][1:]]
    np.testing.assert_allclose(got, expected)
    assert len(got) == eps.size + 1


def test_output_metrics_agree_with_scikit_learn(page, frame):
    for model, attack, cell in cells(page, "auroc"):
        eps = float(cell["data-eps"])
        name = attack if eps else "none"
        rows = frame[(frame.model == model) & (frame.attack == name)]
        rows = rows[np.abs(rows.eps - eps) < 1e-6]
        target = np.array([t[0] for t in rows.target])
        scores = np.stack(list(rows.probabilities)).astype(float)
        scores /= scores.sum(1, keepdims=True)
        auroc = roc_auc_score(target, scores, multi_class="ovr", average="macro")
        assert float(cell["data-value"]) == pytest.approx(auroc, abs=1e-4)
        assert cell["text"].startswith(f"{float(cell['data-value']):.3f}")
        others = {
            "sensitivity": recall_score(target, scores.argmax(1), average="macro"),
            "confidence": rows.confidence.mean(),
            "linf": rows.linf.mean(),
            "l2": rows.l2.mean(),
        }
        for metric, expected in others.items():
            for m, a, other in cells(page, metric):
                if (m, a) == (model, attack) and float(other["data-eps"]) == eps:
                    assert float(other["data-value"]) == pytest.approx(expected, rel=1e-5)


def test_per_class_agrees_with_the_rows(page, frame):
    attacks = [a for a in frame.attack.unique() if a != "none"]
    several = [flags(frame, "standard", name) for name in attacks]
    success, wrong = np.any([s for s, _, _ in several], axis=0), several[0][1]
    target = frame.drop_duplicates("example_id").sort_values("example_id").target.str[0].to_numpy()
    found = {
        (a.split()[0], float(c["data-eps"])): float(c["data-value"])
        for m, a, c in cells(page, "class")
        if m == "standard"
    }
    assert len(found) == 7 * 5
    for index, name in enumerate(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")):
        member = target == index
        eps = several[0][2]
        robust = metrics.robust_accuracy(success[:, member], wrong[member])
        for place in (1, 3, 7, 15):
            value = found[name, float(f"{eps[place]:.9g}")]
            assert value == pytest.approx(robust[place])


def test_cost_agrees_with_the_rows(page, frame):
    values = {(m, a): [] for m, a, _ in cells(page, "cost")}
    for model, attack, cell in cells(page, "cost"):
        values[model, attack].append(float(cell["data-value"]))
    rows = frame[(frame.model == "standard") & (frame.attack == "pgd")]
    got = values["standard", "pgd"]
    assert got[:3] == [len(rows), rows.num_steps.sum(), rows.num_grads.sum()]
    assert got[3:6] == [11 * 60 * 16, 10 * 60 * 16, 3.4]
    assert got[6] == pytest.approx(rows.num_grads.sum() / 3.4)


def test_the_verdict_answers_first_with_its_numbers(page, folder):
    summary = report.summary(folder)
    best = {
        row["model"]: row["robust_accuracy"]
        for row in summary
        if row["combined"] and abs(row["eps"] - 4 / 255) < 1e-9
    }
    headline = page.words.index("pgd-trained keeps more of its accuracy under attack")
    assert headline < page.words.index("Curves")
    sentence = page.words[headline : headline + 200].replace("\u00a0", " ")
    for share in best.values():
        assert f"{100 * share:.1f} %" in sentence
    text = report.summary_table(folder)
    assert text.splitlines()[0].startswith("pgd-trained keeps more")
    assert f"{100 * best['standard']:.1f} %" in text
    assert "\u00a0" not in text


def test_differences_are_paired(folder):
    (found,) = _statistics.compute(load(folder))
    one, two = (found.combined(name, "linf") for name in ("pgd-trained", "standard"))
    gap = found.gaps["linf", "pgd-trained", "standard"]
    np.testing.assert_allclose(gap.value, one.robust.value - two.robust.value)
    draws = metrics.bootstrap(
        lambda w: metrics.weighted_mean(one.held.astype(float) - two.held, w), 60, num=200
    )
    np.testing.assert_allclose(gap.low, draws.low)


def test_no_clear_difference_is_said(tmp_path):
    store = write_results(tmp_path, models=("a",), attacks=("pgd",), panels=0, num_examples=30,
                          epsilons=(4 / 255,), bootstrap=50)  # fmt: skip
    rows = store.read()
    store.write({**rows, "model": "b"}, key="copy")
    text = report.summary_table(tmp_path)
    assert text.startswith("No model is clearly more robust")


def test_accessible(page):
    assert page.images
    for image in page.images:
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
    for table in page.tables:
        for row in table["rows"]:
            for cell in row["cells"]:
                assert cell["tag"] == "td" or cell["scope"] in ("col", "row", "rowgroup")
    for link in page.links:
        assert link[1:] in page.ids


def test_the_picture(folder):
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_provenance_is_there(page, folder):
    manifest = Store(folder).manifest
    for word in (*manifest["inputs"].values(), manifest["created"], manifest["python"],
                 f"numpy {np.__version__}", '"bootstrap": 200'):  # fmt: skip
        assert word in page.words


def test_images_show_what_was_stored(folder):
    results = load(folder)
    sheets = _images.sheets(results)
    assert len(sheets) == 2 * 5 * 2
    first = sheets[0]
    assert (first.model, first.attack, first.budget) == ("standard", "fgsm", "4/255")
    assert first.gain == 31  # 0.5 / (4/255) = 31.9
    panel = next(p for p in results.panels if (p.model, p.attack) == ("standard", "fgsm"))
    truth = [results.groups[0].class_names[label] for label in panel.target]
    assert [card.truth for card in first.cards] == truth
    for sheet in sheets:
        rows = Store(folder).read(model=sheet.model, attack=sheet.attack)
        for card in sheet.cards:
            at = (rows["example_id"] == card.example_id) & (
                np.abs(rows["eps"] * 255 - float(sheet.budget.split("/")[0])) < 1e-6
            )
            assert card.fooled == rows["success"][at][0]
            assert card.wrong_before == rows["wrong_when_clean"][at][0]


def test_perturbation_is_signed_around_grey():
    clean = np.full((1, 4, 4, 3), 0.5, np.float32)
    adv = clean.copy()
    adv[0, 0, 0], adv[0, 1, 1] = 0.5 + 0.02, 0.5 - 0.02
    uri = _images.data_uri(_images.png(0.5 + 25 * (adv[0] - clean[0])))
    data = base64.b64decode(uri.split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == [0] * 3
    assert pixels[3, 3].tolist() == [128] * 3


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_and_large_images(channels):
    data = _images.png(np.random.default_rng(0).random((300, 200, channels)))
    with Image.open(io.BytesIO(data)) as picture:
        assert max(picture.size) == 128
        assert picture.mode == ("RGB" if channels == 3 else "L")


def test_clear_errors(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no rows here"):
        report.build(tmp_path / "nowhere")
    Store(tmp_path, identity={})
    with pytest.raises(ValueError, match="no result row"):
        report.build(tmp_path)
    only_clean = tmp_path / "clean"
    write_results(only_clean, attacks=(), num_examples=10, panels=0)
    with pytest.raises(ValueError, match="no attack is complete"):
        report.build(only_clean)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    next((broken / "panels").iterdir()).write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged panel; delete this file"):
        report.build(broken)


def test_the_report_needs_only_rows_manifest_and_panels(folder, tmp_path):
    for name in ("rows", "panels"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copy(folder / "manifest.json", tmp_path)
    again = report.build(tmp_path).read_text()
    assert again == (folder / "report.html").read_text()


def test_budgets_to_show():
    grid = np.array([0, *EPSILONS])
    np.testing.assert_allclose(_statistics.choose(grid) * 255, [0, 1, 2, 4, 8])
    np.testing.assert_array_equal(_statistics.choose(grid[:3]), grid[:3])


def test_half_life(folder):
    (found,) = _statistics.compute(load(folder))
    series = found.combined("standard", "linf")
    eps = _verdict.half_life(series)
    kept = series.robust.value >= series.robust.value[0] / 2
    assert kept[series.eps <= eps].all()
    assert not kept[series.eps > eps].any()


def test_nothing_right_leaves_half_of_it_nowhere(folder):
    (found,) = _statistics.compute(load(folder))
    series = found.combined("standard", "linf")
    nothing = metrics.Interval(*(np.zeros_like(part) for part in series.robust))
    assert _verdict.half_life(series._replace(robust=nothing)) == 0
