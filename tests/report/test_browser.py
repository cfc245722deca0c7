"""The page in a real browser: no request, no error, no sideways scroll."""

import pytest

from advjax import report
from tests.report.chromium import Browser, find
from tests.report.fake import write_results

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find() is None, reason="no Chromium on this machine (chromium or chrome)"),
]


BLOCKED = """<meta http-equiv='Content-Security-Policy' content="img-src 'none'">
<img src='data:image/png;base64,AAAA'>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    long = "a-model-with-a-very-long-name-that-has-no-space-in-it"
    write_results(folder, models=("standard", long), attacks=("fgsm", "pgd"), num_examples=40,
                  panels=2, bootstrap=50)  # fmt: skip
    return report.build(folder).as_uri()


@pytest.mark.parametrize("width", [360, 1280])
def test_no_request_no_error_no_sideways_scroll(browser, address, width):
    assert browser.open(address, width=width) == []
    # every table and chart that is open is there, with a size
    assert browser.evaluate("document.querySelectorAll('table').length") > 10
    assert browser.evaluate("document.querySelectorAll('svg.chart').length") == 6
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.evaluate(broken) == 0


def test_print_shows_what_is_folded_and_folds_it_again(browser, address):
    assert browser.open(address) == []
    count = "document.querySelectorAll('details[open]').length"
    before, total = browser.evaluate(count), "document.querySelectorAll('details').length"
    assert 0 < before < browser.evaluate(total)
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate(count) == browser.evaluate(total)
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate(count) == before
    # and without the script, by the style alone, where the browser knows the selector
    if browser.evaluate("CSS.supports('selector(::details-content)')"):
        folded = """getComputedStyle(document.querySelector('details:not([open])'),
                                    '::details-content').contentVisibility"""
        assert browser.evaluate(folded) == "hidden"
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.evaluate(folded) == "visible"
        browser.call("Emulation.setEmulatedMedia", media="")


def test_text_has_contrast_in_both_modes(browser, address):
    """WCAG AA: 4.5 to 1 for text, computed from what the browser paints."""
    script = """(() => {
      const parse = c => c.match(/[\\d.]+/g).map(Number);
      const light = c => { const f = v => (v /= 255) <= .03928 ? v / 12.92
          : ((v + .055) / 1.055) ** 2.4; return .2126*f(c[0]) + .7152*f(c[1]) + .0722*f(c[2]); };
      let worst = 99;
      for (const e of document.querySelectorAll('p, li, dt, dd, small, th, td, summary, a')) {
        if (!e.offsetParent) continue;
        let b = e, back = [0, 0, 0, 0];
        while (b && back[3] === 0) {
          const c = getComputedStyle(b).backgroundColor;
          const srgb = c.startsWith('color(srgb');
          back = parse(srgb ? c.replace('color(srgb', '') : c);
          if (srgb) back = back.map((v, i) => i < 3 ? v * 255 : v);
          if (back.length === 3) back[3] = 1;
          b = b.parentElement;
        }
        const a = light(parse(getComputedStyle(e).color)), z = light(back);
        worst = Math.min(worst, (Math.max(a, z) + .05) / (Math.min(a, z) + .05));
      }
      return worst; })()"""
    for mode in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": mode}
        browser.call("Emulation.setEmulatedMedia", features=[feature])
        assert browser.open(address) == []
        assert browser.evaluate(script) >= 4.5
    browser.call("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<img src='http://127.0.0.1:9/x.png'>", "request: http://127.0.0.1:9/x.png"),
        ("<img src='beside.png'>", "request: file://"),
        ("<style>@import 'http://127.0.0.1:9/x.css';</style>", "request: http://127.0.0.1:9"),
        ("<script>fetch('http://127.0.0.1:9/')</script>", "request: http://127.0.0.1:9/"),
        ("<script>console.error('oh')</script>", "console: "),
        ("<script>undefined.oh</script>", "exception: "),
        (BLOCKED, "log: "),
    ],
)  # fmt: skip
def test_the_watch_can_fail(browser, tmp_path, body, words):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html><body>{body}</body></html>")
    complaints = browser.open(page.as_uri())
    assert any(told.startswith(words) for told in complaints), complaints


def test_a_wide_page_is_noticed(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'>"
        "<div style='width:900px'>x</div>"
    )
    browser.open(page.as_uri(), width=360)
    assert browser.evaluate("document.documentElement.scrollWidth") > 360
