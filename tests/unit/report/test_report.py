"""The report of a run: terminal, JSON, page, pictures."""

import hashlib
import json
import math
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from rich.console import Console

from orchestrator.agents.contract import LoadReport
from orchestrator.measurements import Measurements
from orchestrator.measurements.rundir import RunDir
from orchestrator.measurements.verdict import Outcome
from orchestrator.report import html, terminal
from orchestrator.report.charts import charts
from orchestrator.report.drawing import POINTS
from orchestrator.report.figures import best_figure, figure, number
from orchestrator.report.summary import in_brief, summarize_run
from tests.unit import factory

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;pwned\x07[bold]"


@pytest.fixture(scope="module")
def rundir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return factory.make_run(tmp_path_factory.mktemp("run"), domains=64, carries=100, seconds=4)


@pytest.fixture(scope="module")
def page(rundir: RunDir) -> str:
    return html.render(Measurements.read(rundir))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    parent = tmp_path_factory.mktemp("hostile")
    return factory.make_run(
        parent, domains=4, carries=50, seconds=2, outcome=Outcome.REFUTED, lose={3}, hostile=HOSTILE
    )


def shown(rundir: RunDir, width: int = 80, *, colour: bool = False) -> str:
    console = Console(width=width, highlight=False, force_terminal=colour, color_system="truecolor" if colour else None)
    with console.capture() as captured:
        terminal.show(summarize_run(rundir), console)
    return captured.get()


@pytest.fixture(scope="module")
def text(rundir: RunDir) -> str:
    return shown(rundir)


class Elements(HTMLParser):
    """The tags of a page, with the attributes and text that matter here."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data)


def test_the_terminal_says_the_answer_first_and_in_words(text: str) -> None:
    assert text.lstrip().startswith("CONFIRMED  The relay carries")
    for heading in ("Figures", "Throughput", "Latency, milliseconds", "Accounting", "Nodes", "Evidence"):
        assert f"\n{heading}" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "harness CPU not measured" in words
    assert re.search(r"unknown\s+CPU of the sink", text)


@pytest.mark.parametrize("width", [40, 200])
def test_the_terminal_fits_any_width(rundir: RunDir, width: int) -> None:
    assert max(map(len, shown(rundir, width).splitlines())) <= width


def test_a_terminal_gets_colour_and_the_same_words(rundir: RunDir, text: str) -> None:
    coloured = shown(rundir, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text


def test_text_of_others_cannot_steer_the_terminal(hostile: RunDir) -> None:
    text = shown(hostile, 300)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text, "it is text, not markup"
    assert "REFUTED" in text
    assert "note: instrument-bound" in text
    assert re.search(r"FAILS\s+lost\s+1", text)


def test_the_summary_is_json_and_holds_the_figures(rundir: RunDir) -> None:
    run = json.loads(json.dumps(summarize_run(rundir)))
    assert run["subject"] == "relay"
    rate = run["verdict"]["figures"]["relay_messages_per_s"]
    assert run["throughput"]["relay"]["delivered_per_min"] == pytest.approx(60 * rate, rel=2e-3)
    assert run["latency_ms"]["relay"]["service"]["p50"] == pytest.approx(1e3 * math.exp(-3.3), rel=0.05)
    assert run["accounting"]["relay"]["lost"] == 0
    assert [name[0] for name in run["hops_ms"]] == ["a", "b", "c", "d"]
    assert run["statuses"]["sent"] == run["accounting"]["relay"]["delivered"]
    assert run["nodes"]["relay"]["cpu_ms_per_message"] == pytest.approx(1e3 * factory.LOADED["relay"] / rate, rel=0.05)
    assert run["nodes"]["relay"]["memory_b"] > 100e6
    assert run["verdict"]["outcome"] == "CONFIRMED"


def test_deferred_mail_is_shown_with_its_reasons(rundir: RunDir, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(rundir.path, tmp_path / "copy")))
    summarize_run(copy)
    kept = copy.result("hops")
    assert kept
    reasons = [("deferred: host HOST said: 450 <wait>", 7), *((f"reason {n}", 2) for n in range(20))]
    troubles = [{"reason": reason, "count": count, "example": "x"} for reason, count in reasons]
    copy.save_result("hops", kept | {"statuses": {"sent": 4, "deferred": 7}, "troubles": troubles})
    text = shown(copy, 120)
    assert "delivery attempts: 7 deferred, 4 sent" in text
    assert re.search(r"deferred: host HOST said: 450 <wait>\s+7\n", text)
    assert re.search(r"11 other reasons\s+22\n", text)
    assert summarize_run(copy)["troubles"] == troubles
    page = html.write(copy).read_text(encoding="utf-8")
    assert "450 &lt;wait&gt;" in page
    assert "11 other reasons" in page


def test_a_run_that_broke_off_is_shown_with_its_error(tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "relay-throughput")
    error = {"needed": "node relay running", "found": "it ended with status 1\nfatal: [x]", "do": "read logs/"}
    rundir.save({"scenario": "relay-throughput", "question": "How?", "status": "failed", "error": error})
    text = shown(rundir)
    assert "NO VERDICT" in text
    assert "fatal: [x]" in text
    page = html.render(Measurements.read(rundir))
    assert "NO VERDICT" in page
    assert "fatal: [x]" in page
    assert '<script type="application/json" id="charts">{}</script>' in page


def test_the_headline_of_what_could_not_be_judged_is_the_reason(tmp_path: Path) -> None:
    rundir = factory.make_run(tmp_path, seconds=2.0, carries=100.0, outcome=Outcome.INCONCLUSIVE)
    verdict = rundir.load()["verdict"]
    reason, claim = verdict["reason"], verdict["claim"]
    text = " ".join(shown(rundir).split())
    assert text.startswith(f"INCONCLUSIVE {reason}")
    assert text.count(reason) == 1
    assert claim not in text
    page = html.render(Measurements.read(rundir))
    assert f"<h1>{escape(reason)}</h1>" in page
    assert f"<title>{escape(reason)}</title>" in page
    assert page.count(escape(reason)) == 2
    assert escape(claim) not in page
    assert 'class="big' not in page
    assert best_figure(verdict) is None
    assert "<em>relay messages</em>" in page  # beside the others, not in the headline


def test_a_created_run_can_be_shown_too(tmp_path: Path) -> None:
    rundir = RunDir.create(tmp_path, "relay-throughput")
    assert "NO VERDICT" in shown(rundir)
    assert "NO VERDICT" in html.render(Measurements.read(rundir))


def test_the_page_is_written_in_time_and_is_small(rundir: RunDir) -> None:
    began = time.perf_counter()
    path = html.write(rundir)
    assert time.perf_counter() - began < 2
    assert path.stat().st_size < 600e3
    assert [p.name for p in rundir.path.glob("report*")] == ["report.html"]
    assert summarize_run(rundir)["report"] == str(path)


def test_the_page_asks_for_nothing(page: str) -> None:
    tags = Elements(page).tags
    loading = {"src", "srcset", "href", "data", "action", "poster", "background"}
    assert [(tag, attributes) for tag, attributes in tags if loading & attributes.keys()] == []
    assert {tag for tag, _ in tags}.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "form"})
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_every_picture_has_words_and_a_table(rundir: RunDir, page: str) -> None:
    drawn = charts(Measurements.read(rundir))
    assert [chart.id for chart in drawn] == [
        "throughput", "queue", "cpu", "memory", "reading-open-files", "latency", "hops",
    ]  # fmt: skip
    tags = Elements(page).tags
    pictures = {a["id"]: a for tag, a in tags if a.get("role") == "img"}
    assert set(pictures) == {f"chart-{chart.id}" for chart in drawn}
    for chart in drawn:
        assert chart.says
        assert chart.table.rows
        assert chart.table.title in (pictures[f"chart-{chart.id}"]["aria-label"] or "")
        assert all(len(row) == len(chart.table.columns) for row in chart.table.rows)
    assert sum(tag == "figure" for tag, _ in tags) == len(drawn)
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_the_library_is_the_one_of_the_named_release() -> None:
    """Hashes of the files of uplot 1.6.32 on npm, which are those of the tag 1.6.32 of its repository."""
    folder = Path(html.__file__).parent / "uplot"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == {
        "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }


def test_every_colour_of_a_line_is_one_of_the_page_in_light_and_dark(rundir: RunDir, page: str) -> None:
    lines = [line for chart in charts(Measurements.read(rundir)) for line in chart.picture["lines"]]
    colours = {line["colour"] for line in lines} | {f"{line['colour']}-wash" for line in lines if line.get("filled")}
    assert len(colours) > 5
    assert {colour: page.count(f"{colour}: ") for colour in colours} == dict.fromkeys(colours, 2)


def test_pictures_show_what_was_measured(rundir: RunDir) -> None:
    measured = Measurements.read(rundir)
    drawn = {chart.id: chart.picture for chart in charts(measured)}
    lines = {line["name"]: line for line in drawn["throughput"]["lines"]}
    shown_rates = [v for v in lines["delivered"]["y"] if v is not None]
    assert max(shown_rates) < 200, "calibrations, at 9,400 a second, are named and not drawn"
    assert "calibration" in [phase["name"] for phase in drawn["throughput"]["phases"]]
    cores = {line["name"]: [v for v in line["y"] if v is not None] for line in drawn["cpu"]["lines"]}
    assert max(cores["relay"]) == pytest.approx(factory.LOADED["relay"], rel=0.05)
    assert max(cores["all nodes"]) > max(cores["relay"])
    assert max(cores["all nodes"]) <= sum(map(max, (cores[node] for node in measured.nodes))) * 1.001
    assert drawn["cpu"]["level"] == {"at": 2, "text": "the machine has 2"}
    service = drawn["latency"]["lines"][1]
    assert service["y"] == sorted(service["y"])
    assert max(service["x"]) <= measured.latency("relay")["service"].count
    for chart in ("throughput", "queue", "cpu", "memory"):
        for line in drawn[chart]["lines"]:
            assert line["x"] == sorted(set(line["x"])), "one value at a time"
            assert 0 <= line["x"][0] <= line["x"][-1] <= drawn[chart]["end"]


def test_a_day_of_readings_is_thinned(rundir: RunDir, tmp_path: Path) -> None:
    long = RunDir(Path(shutil.copytree(rundir.path, tmp_path / "run")))
    with (long.path / "series" / "stats.jsonl").open("w") as stats:
        for second in range(10_000):
            reading = {"t": factory.BEGAN + second, "node": "relay", "cpu_s": second * 0.5, "memory_b": second * 1000}
            stats.write(json.dumps(reading) + "\n")
    drawn = {chart.id: chart for chart in charts(Measurements.read(long))}
    for chart in ("cpu", "memory"):
        assert len(drawn[chart].picture["lines"][0]["x"]) <= POINTS
    assert max(drawn["memory"].picture["lines"][0]["y"]) == pytest.approx(9.999), "a peak is not averaged"
    assert drawn["cpu"].picture["x"] == "minutes"


def test_text_of_others_stays_text_in_the_page(hostile: RunDir) -> None:
    page = html.render(Measurements.read(hostile))
    tags = Elements(page).tags
    assert [tag for tag, _ in tags].count("script") == 2
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "alert(1)</script>" not in page
    assert "<img" not in page


def several_loads(rundir: RunDir, parent: Path, *names: str) -> RunDir:
    """Return a copy of a run in which the load of the relay has these names, one after the other."""
    copy = RunDir(Path(shutil.copytree(rundir.path, parent / "several")))
    for path in copy.path.glob("results/relay-*.json"):
        path.unlink()
    for n, name in enumerate(names):
        load, sink = (rundir.result(f"relay-{end}") or {} for end in ("load", "sink"))
        later = {key: load[key] + 60 * n for key in ("started", "ended")}
        copy.save_result(f"{name}-load", load | later)
        copy.save_result(f"{name}-sink", sink | {key: sink[key] + 60 * n for key in ("first", "last")})
    return copy


def test_a_run_with_several_loads_shows_no_figure_of_one_as_that_of_the_run(rundir: RunDir, tmp_path: Path) -> None:
    several = several_loads(rundir, tmp_path, "one-core-1", "all-threads-1")
    run = summarize_run(several)
    assert run["subject"] is None
    assert list(run["throughput"]) == ["one-core-1", "all-threads-1", "calibration", "calibration-single"], (
        "as they ran"
    )
    text = shown(several)
    assert "\nNodes" not in text
    assert re.search(r"^one-core-1 .*\n(.*\n)*all-threads-1 ", text, re.MULTILINE)
    page = html.render(Measurements.read(several))
    assert "The relay and the instrument" not in page
    assert "Resource use by node" not in page
    drawn = {chart.id: chart for chart in charts(Measurements.read(several))}
    assert "latency" not in drawn
    assert re.match(r"From \S+ to \S+ messages a second were delivered", drawn["throughput"].says)
    assert all(chart.says for chart in drawn.values())


def test_a_run_without_mail_shows_what_there_is(rundir: RunDir, tmp_path: Path) -> None:
    quiet = several_loads(rundir, tmp_path)
    for path in [*quiet.path.glob("results/*"), quiet.path / "series/load.jsonl", quiet.path / "series/sink.jsonl"]:
        path.unlink()
    (quiet.path / "logs" / "relay.log.gz").unlink()
    page = html.render(Measurements.read(quiet))
    for heading in ("The relay and the instrument", "Every message accounted for", ">Latency<", "Resource use by node"):
        assert heading not in page
    drawn = charts(Measurements.read(quiet))
    assert [chart.id for chart in drawn] == ["cpu", "memory", "reading-open-files"]
    assert all(chart.says for chart in drawn)
    text = shown(quiet)
    for heading in ("Throughput", "Latency", "Accounting", "Nodes"):
        assert f"\n{heading}" not in text
    assert "\nEvidence" in text


def test_the_accounting_names_what_befell_a_message_and_no_more(text: str, hostile: RunDir, tmp_path: Path) -> None:
    header = next(line for line in text.splitlines() if "offered" in line)
    assert header.split() == ["offered", "accepted", "delivered", "lost", "duplicated", "corrupted", "foreign"]
    copy = RunDir(Path(shutil.copytree(hostile.path, tmp_path / "copy")))
    copy.save_result("relay-sink", (copy.result("relay-sink") or {}) | {"misrouted": 2})
    assert "misrouted" in shown(copy, 120)
    assert "Refused, unresolved" in html.render(Measurements.read(copy))
    copy.save_result("relay-load", (copy.result("relay-load") or {}) | {"goodbye_failed": {"no reply to QUIT": 3}})
    assert "no reply to QUIT            3" in shown(copy, 120)
    assert "3 by no reply to QUIT" in html.render(Measurements.read(copy))
    copy.save_result("relay-sink", (copy.result("relay-sink") or {}) | {"outside": 3})
    assert "outside" in shown(copy, 120)
    assert "outside the prefix of the domains" in html.render(Measurements.read(copy))


def test_tables_and_quotes_of_a_verdict_are_shown(text: str, page: str) -> None:
    assert re.search(
        r"Carried by set\nset +CPUs +messages/s\n─+\nall threads +0-1 +\d+\S*\none core +0 +not measured", text
    )
    assert re.search(r"In their own words\n.*\n─+\ndns +socket: file descriptor exceeds limit", text)
    words = Elements(page)
    assert {"Carried by set", "all threads", "In their own words", "socket: file descriptor exceeds limit"} <= {
        word.strip() for word in words.text
    }
    assert re.findall(r'<u style="width:([\d.]+)%">', page)[:2] == ["100.0", "0.0"]


def test_a_load_of_another_generator_is_one_of_several_and_its_fate_unknown(rundir: RunDir, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(rundir.path, tmp_path / "run")))
    started = (rundir.result("relay-load") or {})["started"] + 60
    load = LoadReport(run="5eed0009", generator="postal", started=started, ended=started + 4, cpu_s=0.1, cut_off=True)
    copy.save_result("postal-load", load.to_dict())
    run = summarize_run(copy)
    assert (run["subject"], list(run["throughput"])[:2]) == (None, ["relay", "postal"])
    text = shown(copy, 120)
    assert re.search(r"^postal +not measured", text, re.MULTILINE)
    assert re.search(r"^postal +unknown", text, re.MULTILINE)


def test_values_that_make_no_line_are_points(rundir: RunDir, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(rundir.path, tmp_path / "run")))
    ticks = [tick for tick in copy.series("load") if tick["phase"] == "relay"][:1]
    (copy.path / "series" / "load.jsonl").write_text("".join(json.dumps(tick | {"t": tick["t"] + 1}) for tick in ticks))
    drawn = {chart.id: chart for chart in charts(Measurements.read(copy))}
    marked = {line["name"]: line["marked"] for line in drawn["throughput"].picture["lines"]}
    assert marked == {"offered": True, "accepted": True, "delivered": False}


def test_the_search_for_connections_has_one_label(rundir: RunDir, tmp_path: Path) -> None:
    probed = RunDir(Path(shutil.copytree(rundir.path, tmp_path / "run")))
    facts = probed.load()
    start = facts["phases"][0]["start"] - 5
    tried = [{"name": name, "start": start + i, "end": start + i + 1, "purpose": "probe"}
             for i, name in enumerate(("probe-20", "probe-20 drain", "probe-40", "probe-40 drain"))]  # fmt: skip
    probed.save(facts | {"phases": tried + facts["phases"]})
    factory.add_probes(probed, {20: 100.0, 40: 100.0}, used=20)
    run = summarize_run(probed)
    assert run["subject"] == "relay"
    assert list(run["throughput"]) == list(run["accounting"]) == ["relay", "calibration", "calibration-single"]
    drawn = {chart.id: chart for chart in charts(Measurements.read(probed))}
    names = [phase["name"] for phase in drawn["throughput"].picture["phases"]]
    assert [name for name in names if name] == ["connections", "calibration", "relay", "drain"]


def test_a_list_of_runs_shows_how_each_ended(rundir: RunDir, hostile: RunDir, tmp_path: Path) -> None:
    broken = RunDir.create(tmp_path, "relay-throughput")
    console = Console(width=80, highlight=False)
    with console.capture() as captured:
        terminal.show_runs([rundir, hostile, broken], console)
    heading, _, first, second, third, _ = captured.get().splitlines()
    assert heading.split() == ["run", "ended"]
    assert re.search(r"CONFIRMED\s+\d+(\.\d)?\s+relay messages per second", first)
    assert "REFUTED" in second
    assert broken.path.name in third
    assert "created" in third
    assert in_brief(broken) == {
        "run": str(broken.path), "scenario": "relay-throughput", "status": "created", "outcome": None, "figures": None,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["source", "engine", "cpu"])
def test_a_list_of_runs_marks_those_of_another_environment(rundir: RunDir, tmp_path: Path, key: str) -> None:
    known = json.loads((rundir.path / "run.json").read_text())
    others = [RunDir.create(tmp_path, "relay-throughput") for _ in range(3)]
    other = known["environment"] | {key: {"version": "29"} if key == "engine" else "other"}
    for run, environment in zip(others, (other, known["environment"], None), strict=True):
        run.save(known | {"environment": environment})
    console = Console(width=100, highlight=False)
    with console.capture() as captured:
        terminal.show_runs([rundir, *others], console)
    *rows, legend = captured.get().splitlines()[2:]
    assert [row.rstrip().endswith("*") for row in rows] == [False, True, False, False]
    assert legend.startswith("* other code, engine or CPU than the newest run")
    with console.capture() as captured:
        terminal.show_runs([rundir, others[1]], console)
    assert "*" not in captured.get()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("relay_messages_per_s", 451.3, ("relay messages", "451", "per second")),
        ("relay_messages_per_minute", 27e3, ("relay messages", "27,000", "per minute")),
        ("relay_cpu_ms_per_message", 3.156, ("relay CPU", "3.16", "ms per message")),
        ("response_p99_ms", 12.345, ("response p99", "12.3", "ms")),
        ("share_of_ceiling", 0.1451, ("share of ceiling", "14.5", "%")),
        ("relay_memory_b", 310e6, ("relay memory", "310", "MB")),
        ("drain_s", 0.0, ("drain", "0", "s")),
        ("lost", None, ("lost", "not measured", "")),
    ],
)
def test_figures_are_put_in_words(name: str, value: float | None, words: tuple[str, str, str]) -> None:
    assert figure(name, value) == words


def test_the_best_figure_is_one_that_was_measured() -> None:
    assert best_figure({"figures": {"a_per_s": None, "b_ms": 2.0}}) == ("b", "2.00", "ms")
    assert best_figure({"figures": {}}) is None
    assert best_figure(None) is None


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=6e-3, abs=5.1e-4)
