"""report.html in a real browser that cannot reach any network."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.measurements.rundir import RunDir
from orchestrator.report import html
from orchestrator.scenarios import Outcome
from tests.integration.browser import Browser
from tests.unit import factory

HOSTILE = (
    '</script><script>document.title="pwned"</script><img src="http://198.18.0.1/x" onerror="document.title=\'pwned\'">'
    '<a href="javascript:document.title=1">x</a> javascript:alert(1) --ink {{ 7 * 7 }}'
)
DRAWN = "document.querySelectorAll('.chart .main-svg').length > 0"


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
        assert browser.console == []
        assert browser.requests == [page(run).as_uri()]
        assert browser.value("document.querySelector('h1').innerText").startswith("The relay carries")
        assert browser.value("document.querySelector('.outcome').innerText") == "CONFIRMED"
        charts = browser.value("document.querySelectorAll('.chart').length")
        assert charts == 7
        visible = (
            "[...document.querySelectorAll('.chart')].filter(c => c.querySelector('.main-svg')?.clientWidth > 250)"
        )
        assert browser.value(f"{visible}.length") == charts
        lines = "[...document.querySelectorAll('.chart')].every(c => c.querySelector('.scatterlayer path.js-line'))"
        assert browser.value(lines)
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


def test_light_and_dark_differ_in_the_pictures_too(run: RunDir) -> None:
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    with Browser() as browser:
        browser.open(page(run))
        light = browser.value(ink), browser.value(paper)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        browser.wait(f"{ink} !== '{light[0]}'")
        assert browser.value(paper) != light[1]
        assert browser.console == []


def test_text_of_others_is_inert(hostile: RunDir) -> None:
    with Browser() as browser:
        browser.open(page(hostile))
        assert browser.value("document.documentElement.dataset.drawn") == "yes"
        assert browser.console == []
        assert browser.requests == [page(hostile).as_uri()]
        assert browser.value("document.title").startswith("The relay carries")
        assert browser.value("document.querySelectorAll('img, a[href], svg a').length") == 0
        assert "onerror" in browser.value("document.querySelector('h1').innerText"), "it is shown as the text it is"
        assert "{{ 7 * 7 }}" in browser.value("document.querySelector('h1').innerText")
        legend = "[...document.querySelectorAll('.legendtext')].map(t => t.textContent).join()"
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
