"""The pytest plugin with real beds: marks, reports, workers of pytest-xdist, interrupts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.hosts import Host, cleaning
from tests.integration.command import POLL_S, call
from tests.integration.traces import traces

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.docker

CONFTEST = """
    import os, smtplib
    from email.message import EmailMessage
    from pathlib import Path

    import pytest

    @pytest.fixture(autouse=True)
    def bed_id(mail_bed):
        Path(f"{os.environ.get('PYTEST_XDIST_WORKER', 'only')}.id").write_text(mail_bed.id)

    @pytest.fixture
    def send(mail_bed):
        def send(to, subject):
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = "app@example.org", to, subject
            with smtplib.SMTP(mail_bed.relay.host, mail_bed.relay.port) as smtp:
                smtp.send_message(message)
        return send
"""


@pytest.fixture(autouse=True)
def _only_the_needed_plugins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_testbed,xdist.plugin")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest(CONFTEST)


@pytest.fixture(autouse=True)
def _nothing_left(real_engine: Host, pytester: pytest.Pytester) -> Iterator[None]:
    """Remove the beds of a session that left them."""
    yield
    for id_ in _ids(pytester.path):
        cleaning.remove_id(real_engine, id_)


def _ids(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("*.id"))]


def test_tests_begin_anew_and_a_failed_one_is_reported(real_engine: Host, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def welcome(mail_bed): return mail_bed.inbox.accept(to="ann@example.com")

        @pytest.fixture
        def refused(mail_bed): return mail_bed.inbox.reject(to="bob@example.com")

        def test_mail_arrives(mailbox, inbox, send, mail_bed, refused):
            mailbox.tarpit(0.1)
            mail_bed.dns.fail("example.org")
            assert (len(inbox.api.rules()), len(mail_bed.dns.faults())) == (3, 1)
            send(mailbox, "Welcome")
            assert inbox.wait_for(to=mailbox).subject == "Welcome"

        def test_earlier_mail_and_rules_do_not_count(inbox, mail_bed, welcome):
            assert inbox.messages() == []
            assert [rule["id"] for rule in inbox.api.rules()] == [welcome.id]
            assert mail_bed.dns.faults() == []

        def test_fails(mailbox, inbox, send):
            send(mailbox, "Goodbye")
            assert inbox.wait_for(to=mailbox).subject == "Welcome"

        @pytest.fixture
        def account(mailbox, inbox, send):
            send(mailbox, "Account")
            inbox.wait_for(to=mailbox)
            raise ValueError("no account")

        def test_has_a_failing_fixture(account): ...

        def test_is_not_run(mail_bed): ...
        """
    )
    result = pytester.runpytest_subprocess("--maxfail=2", "--testbed-report=evidence", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*_ ERROR at setup of test_has_a_failing_fixture _*",
            "*- testbed: mail.txt -*",
            "3.eml  *app@example.org -> *@example.com  'Account'",
            "*_ test_fails _*",
            "*- testbed: mail.txt -*",
            "2.eml  *app@example.org -> *@example.com  'Goodbye'",
            "*- testbed: queue.txt -*",
            "*- testbed: relay.log -*",
            "*: from=<app@example.org>, size=*",
        ]
    )
    assert "'Welcome'" not in "".join(line for line in result.outlines if ".eml" in line)
    cases = ET.parse("junit.xml").getroot().iter("testcase")  # noqa: S314 - our own
    named = {case.get("name"): [p.get("value") or "" for p in case.iter("property")] for case in cases}
    (folder,) = named["test_fails"]
    assert message_from_bytes((pytester.path / folder / "2.eml").read_bytes())["Subject"] == "Goodbye"
    assert "from=<app@example.org>" in (pytester.path / folder / "relay.log").read_text()
    assert traces(real_engine, _ids(pytester.path)) == []


def test_workers_share_one_bed_that_stays_up_after_a_failure(real_engine: Host, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fails(mailbox): assert not mailbox

        def test_mail_arrives(mailbox, inbox, send):
            send(mailbox, "Welcome")
            assert inbox.wait_for(to=mailbox).subject == "Welcome"
        """
    )
    result = pytester.runpytest_subprocess("-n2", "--dist=each", "--testbed-keep")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*- testbed: mail.txt -*"])
    one, other = _ids(pytester.path)
    assert one == other
    result.stdout.fnmatch_lines([f"bed mail-* {one} stays up: relay 127.0.0.1:*, inbox http://*`testbed down {one}`*"])
    assert one in call("ps").stdout
    assert call("down", one).returncode == 0
    assert traces(real_engine, [one]) == []


@pytest.mark.long
def test_workers_have_a_bed_each_by_choice(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(mail_bed): assert not mail_bed.id")
    result = pytester.runpytest_subprocess("-n2", "--dist=each", "-o", "mail_bed_workers=each", "--testbed-keep=always")
    result.assert_outcomes(failed=2)
    one, other = _ids(pytester.path)
    assert one != other
    result.stdout.fnmatch_lines_random([f"bed mail-* {one} stays up: *", f"bed mail-* {other} stays up: *"])
    for id_ in (one, other):
        assert call("down", id_).returncode == 0


ALONE, WORKERS = (), ("-n2", "--dist=each")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGINT, WORKERS, id="interrupt-workers"),
        pytest.param(signal.SIGINT, ALONE, id="interrupt", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, WORKERS, id="kill-controller", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, ALONE, id="kill", marks=pytest.mark.long),
    ],
)
def test_a_signal_takes_the_bed_down(
    real_engine: Host, pytester: pytest.Pytester, number: signal.Signals, words: tuple[str, ...]
) -> None:
    pytester.makepyfile("import signal\ndef test_waits(mail_bed): signal.pause()")
    command = [sys.executable, "-m", "pytest", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as session:
        deadline = time.monotonic() + 60
        while len(_ids(pytester.path)) < (len(words) or 1):
            assert session.poll() is None, session.communicate()
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        if number is signal.SIGINT:
            os.killpg(session.pid, number)  # as a terminal does
            output, _ = session.communicate(timeout=60)
            assert session.returncode == pytest.ExitCode.INTERRUPTED, output
        else:
            session.kill()
            deadline = time.monotonic() + 60
            while traces(real_engine, _ids(pytester.path)):
                assert time.monotonic() < deadline
    assert traces(real_engine, _ids(pytester.path)) == []
