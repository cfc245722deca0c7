"""The curves, in the page and in the picture, are the numbers."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from advjax.metrics import Interval
from advjax.report import _charts, _figures, _format, _html, _statistics, _verdict
from advjax.report._results import load
from tests.report.fake import write_results


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, attacks=("fgsm", "pgd"), num_examples=50, panels=0, bootstrap=50)
    (found,) = _statistics.compute(load(folder))
    return found


def points(svg):
    """Return the curves of a chart as [(eps relative, share)]."""
    found = []
    for text in re.findall(r'<polyline class="line" points="([^"]*)"', svg):
        xy = np.array([[float(v) for v in pair.split(",")] for pair in text.split()])
        found.append(np.stack([(xy[:, 0] - 44) / 306, 1 - (xy[:, 1] - 12) / 198], 1))
    return found


def test_the_page_draws_the_series(statistics):
    for which in ("robust", "alone"):
        plots = _html._plots(statistics, "linf", which)
        assert [plot.title for plot in plots] == ["all attacks", "fgsm", "pgd"]
        for plot in plots:
            series = [s for s in statistics.series if s.attack == plot.title]
            curves = points(plot.svg)
            assert len(curves) == len(series) == 2
            for curve, one in zip(curves, series, strict=True):
                np.testing.assert_allclose(curve[:, 0], one.eps / one.eps[-1], atol=5e-4)
                wanted = getattr(one, which).value
                np.testing.assert_allclose(curve[:, 1], wanted, atol=5e-4)


def test_the_two_figures_differ_where_an_attack_overshoots(statistics):
    series = next(s for s in statistics.series if (s.model, s.attack) == ("standard", "fgsm"))
    assert (series.alone.value > series.robust.value).any()


def test_the_picture_draws_the_series(statistics):
    for which in ("robust", "alone"):
        axes = Figure().subplots()
        _figures._plot(axes, statistics, "linf", "fgsm", which)
        series = [s for s in statistics.series if s.attack == "fgsm"]
        styles = set()
        for line, one in zip(axes.get_lines(), series, strict=True):
            np.testing.assert_allclose(line.get_xdata(), one.eps)
            np.testing.assert_allclose(line.get_ydata(), getattr(one, which).value)
            styles.add((line.get_color(), line.get_linestyle(), line.get_marker()))
        assert len(styles) == 2
        assert len(axes.collections) == 2  # the bands


def test_gaps_and_spoken_values():
    share = Interval(
        np.array([0.9, np.nan, 0.1]), np.array([0.8, np.nan, 0.05]), np.array([1, np.nan, 0.2])
    )
    line = _charts.Line("a<b", 9 % 8, np.array([0.0, 0.01, 0.02]), share)
    svg = str(_charts.chart([line], norm="l2", title="T"))
    assert len(points(svg)[0]) == 2
    assert "T. a&lt;b: 90.0\u00a0% at clean, 10.0\u00a0% at 0.02" in svg
    assert "<title>a&lt;b, 0.02: 10.0\u00a0% (5.0 to 20.0)</title>" in svg


@pytest.mark.parametrize("largest", [1e-4, 0.5 / 255, 1 / 255, 8 / 255, 16 / 255, 0.3, 1.0, 7.5])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ticks_are_few_and_inside(largest, norm):
    places = _charts.ticks(largest, norm)
    assert 3 <= len(places) <= 10
    assert places[0] == (0.0, "0")
    assert places[-1][0] <= largest * 1.001
    assert len({text for _, text in places}) == len(places)


def test_budgets_are_written_in_grey_levels():
    assert _format.budget(0) == "clean"
    assert _format.budget(8 / 255) == "8/255"
    assert _format.budget(1 / 510) == "0.5/255"
    assert _format.budget(1.0) == "255/255"
    assert _format.budget(0.25, "l2") == "0.25"


def told(statistics, eps, width, **robust):
    """Return the verdict on made-up curves whose differences have intervals of a given width."""
    eps = np.array(eps)
    curves = {name.replace("_", "-"): np.array(values) for name, values in robust.items()}
    series = [
        _statistics.Series(name, "pgd", "linf", True, eps, Interval(v, v - 0.02, v + 0.02),
                           Interval(v, v, v), np.zeros((len(eps), 5), bool))
        for name, v in curves.items()
    ]  # fmt: skip
    gaps = {
        ("linf", one, two): Interval(a - b, a - b - width, a - b + width)
        for one, a in curves.items()
        for two, b in curves.items()
        if one != two
    }
    found = statistics._replace(
        series=series, gaps=gaps, budgets={"linf": eps}, chosen={"linf": eps}
    )
    (verdict,) = _verdict.verdicts(found)
    points = " ".join(verdict.points).replace("\u00a0", " ")
    return verdict.headline.replace("\u00a0", " "), points


def test_the_verdict_says_when_leaders_change(statistics):
    headline, points = told(
        statistics, [0, 2 / 255, 8 / 255], 0.05,
        standard=[0.9, 0.8, 0.1], robust=[0.6, 0.55, 0.5],
    )  # fmt: skip
    assert headline.startswith("It depends on the budget. robust leads most clearly: at 8/255 it")
    assert "On clean images, standard 90.0 % (88.0 to 92.0) leads; robust 60.0 %" in points
    assert "At 2/255, standard 80.0 % (78.0 to 82.0) leads" in points
    assert "standard keeps at least half of its clean accuracy (90.0 %) up to 2/255." in points


def test_the_verdict_names_ties_among_several_models(statistics):
    headline, points = told(
        statistics, [0, 4 / 255], 0.05,
        standard=[0.9, 0.1], fgsm_trained=[0.8, 0.6], pgd_trained=[0.75, 0.62],
    )  # fmt: skip
    assert headline == (
        "pgd-trained and fgsm-trained keep more of their accuracy under attack: at 4/255 they "
        "still get 62.0 % (60.0 to 64.0) and 60.0 % (58.0 to 62.0) of all images right, "
        "standard 10.0 % (8.0 to 12.0)."
    )
    assert "pgd-trained minus standard, at 4/255: +52.0 points (+47.0 to +57.0)" in points
    assert "Between pgd-trained and fgsm-trained there is no clear difference there." in points


def test_the_verdict_claims_nothing_that_chance_explains(statistics):
    headline, points = told(statistics, [0, 4 / 255], 0.3, a=[0.9, 0.2], b=[0.8, 0.4], c=[0.8, 0.3])
    assert headline.startswith("No model is clearly more robust: the largest difference, at 4/255")
    assert "+20.0 points" in headline
    assert "On clean images there is no clear difference: a 90.0 %" in points
