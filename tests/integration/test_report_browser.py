"""report.html in a real browser that cannot reach any network."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import html
from tests.integration.browser import Browser
from tests.unit import factory

HOSTILE = (
    '</script><script>document.title="pwned"</script><img src="http://198.18.0.1/x" onerror="document.title=\'pwned\'">'
    '<a href="javascript:document.title=1">x</a> javascript:alert(1) --ink {{ 7 * 7 }}'
)
PIXELS = """(canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    return new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
})"""
PAINTED = f"""[...document.querySelectorAll('.chart canvas')].filter(
    canvas => canvas.clientWidth > 250 && new Set({PIXELS}(canvas)).size > 50).length"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    rundir = factory.make_run(tmp_path_factory.mktemp("run"), seconds=12)
    html.write(rundir)
    return rundir


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    rundir = factory.make_run(
        tmp_path_factory.mktemp("hostile"), carries=50, seconds=3, outcome=Outcome.REFUTED, lose={3}, hostile=HOSTILE
    )
    html.write(rundir)
    return rundir


def page(run: RunDir) -> Path:
    return run.path / "report.html"


@pytest.mark.parametrize("look", [{"width": 1280}, {"width": 1280, "dark": True}, {"width": 390, "height": 844}])
def test_the_page_draws_everything_and_asks_for_nothing(run: RunDir, look: dict[str, Any]) -> None:
    with Browser(**look) as browser:
        browser.open(page(run))
        assert browser.value("document.documentElement.dataset.drawn") == "yes"
        browser.open(page(run))
        assert browser.value("performance.now()") < 1_000, "ms, once the browser itself has started"
        assert browser.console == []
        assert browser.requests == [page(run).as_uri()] * 2
        assert browser.value("document.querySelector('h1').innerText").startswith("The relay carries")
        assert browser.value("document.querySelector('.outcome').innerText") == "CONFIRMED"
        charts = browser.value("document.querySelectorAll('.chart').length")
        assert charts == 7
        assert browser.value(PAINTED) == charts
        assert browser.value("document.documentElement.scrollWidth") <= look["width"], "nothing sticks out sideways"


def test_evidence_tables_and_quotes_are_laid_out(run: RunDir) -> None:
    """A fact, what was found and what was needed stand side by side; no cell of a table is cut off."""
    left = "['b', '.fact', '.found', '.needed'].map(c => document.querySelector('.evidence ' + c).offsetLeft)"
    cut = "[...document.querySelectorAll('.told .scroll')].filter(t => t.scrollWidth > t.clientWidth).length"
    bars = "[...document.querySelectorAll('.bars u')].slice(0, 2).map(bar => bar.clientWidth)"
    with Browser(width=1000) as browser:
        browser.open(page(run))
        places = browser.value(left)
        assert places == sorted(places)
        assert len(set(places)) == 4
        assert browser.value(cut) == 0
        measured, unknown = browser.value(bars)
        assert measured > 300
        assert unknown == 0
        quote = browser.value("document.querySelector('.quotes dd').innerText")
        assert quote == "socket: file descriptor exceeds limit"


def test_light_dark_and_print_differ_in_the_pictures_too(run: RunDir) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light_line, dark_line = (
        f"{PIXELS}(document.querySelector('.chart canvas')).includes({abgr})"
        for abgr in ("0xffd75b2a", "0xffffa886")  # --series-1
    )
    with Browser() as browser:
        browser.open(page(run))
        light = browser.value(paper)
        assert (browser.value(light_line), browser.value(dark_line)) == (True, False)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.call("Emulation.setEmulatedMedia", features=dark)
        browser.wait(f"{dark_line} && !{light_line}")
        assert browser.value(paper) != light
        browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
        browser.wait(f"{light_line} && !{dark_line}")
        assert browser.console == []


def test_values_are_read_lines_hidden_and_a_time_is_zoomed_in_all_charts(run: RunDir) -> None:
    legend = "[...document.querySelectorAll('#chart-throughput .u-legend td')].map(td => td.innerText)"
    times = "[...document.querySelectorAll('.u-legend tr:first-child td')].map(td => td.innerText).filter(Boolean)"
    labels = "[...document.querySelectorAll('#chart-cpu .label')].filter(l => l.style.visibility === 'visible').length"
    plot = "(r => [r.x, r.y, r.width])(document.querySelector('.u-over').getBoundingClientRect())"
    pixels = "document.querySelector('#chart-cpu canvas').toDataURL()"
    with Browser(height=4000) as browser:
        browser.open(page(run))
        assert browser.value(legend) == [""] * 4
        whole, named = browser.value(pixels), browser.value(labels)
        left, top, width = browser.value(plot)

        def mouse(kind: str, at: float) -> None:
            there = {"x": left + at * width, "y": top + 50}
            browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **there)

        mouse("mouseMoved", 0.9)
        browser.wait(f"{times}.length === 5")
        time, *rates = browser.value(legend)
        assert time.endswith(" seconds")
        assert all(float(rate) > 0 for rate in rates)
        mouse("mousePressed", 0.85)
        mouse("mouseMoved", 0.95)
        mouse("mouseReleased", 0.95)
        browser.wait(f"{pixels} !== '{whole}'")
        assert browser.value(labels) < named, "calibrations are out of sight"
        zoomed = browser.value(pixels)
        browser.value("document.querySelectorAll('#chart-cpu .u-legend th')[1].click()")
        browser.wait(f"{pixels} !== '{zoomed}'")
        assert browser.console == []


def test_text_of_others_is_inert(hostile: RunDir) -> None:
    with Browser() as browser:
        browser.open(page(hostile))
        assert browser.value("document.documentElement.dataset.drawn") == "yes"
        assert browser.console == []
        assert browser.requests == [page(hostile).as_uri()]
        assert browser.value("document.title").startswith("The relay carries")
        assert browser.value("document.querySelectorAll('img, a[href]').length") == 0
        assert "onerror" in browser.value("document.querySelector('h1').innerText"), "it is shown as the text it is"
        assert "{{ 7 * 7 }}" in browser.value("document.querySelector('h1').innerText")
        legend = "[...document.querySelectorAll('.u-legend th')].map(th => th.textContent).join()"
        assert "<script>" in browser.value(legend)


def test_the_policy_stops_a_script_that_was_slipped_in(run: RunDir, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    changed.write_text(page(run).read_text().replace("</main>", "<script>document.title='pwned'</script></main>"))
    with Browser() as browser:
        browser.open(changed)
        assert browser.value("document.title").startswith("The relay carries")
        assert any("Content Security Policy" in text for text in browser.console)


def test_without_scripts_the_answer_and_the_tables_are_there(run: RunDir) -> None:
    with Browser(scripts=False) as browser:
        browser.open(page(run))
        assert "need scripts" in browser.value("document.querySelector('noscript').textContent")
        assert browser.value("document.querySelectorAll('figure details table').length") >= 4


def test_if_drawing_fails_the_tables_are_open(run: RunDir, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(page(run).read_text().replace('"lines":', '"other":'))
    with Browser() as browser:
        browser.open(broken)
        browser.wait("document.documentElement.dataset.drawn === 'no'")
        assert browser.value("[...document.querySelectorAll('figure details')].every(details => details.open)")
