"""The report of a failed test: read from a bed with a real inbox, also from one whose relay is gone."""

import time
from pathlib import Path
from unittest.mock import Mock

from orchestrator.testing import MailBed
from orchestrator.testing.plugin import report
from orchestrator.testing.plugin.beds import Beds, _Held
from tests.unit.testing.conftest import Bed, queued


def held(bed: Bed) -> MailBed:
    made = MailBed()
    made._take("0badcafe", bed.running)
    return made


def test_a_report_has_the_mail_after_the_mark_the_queue_and_the_logs_since_the_begin(bed: Bed, tmp_path: Path) -> None:
    bed.take("early@example.com")
    mail_bed = held(bed)
    bed.take("bob@example.com", content="Subject: =?utf-8?q?a=1B=5B31m?=\r\n\r\nhi\r\n")
    bed.queues = [[queued("4A", "carol@example.com", reason="try later")]]
    bed.log = ["connect", "disconnect"]  # their times are 1e9 and 1e9 + 1
    found = report.collect(mail_bed, since=1e9 + 1)
    sections = dict(found.sections())
    assert sections["testbed: queue.txt"] == "4A deferred: ann@example.org -> carol@example.com (try later)"
    assert sections["testbed: relay.log"].endswith(" disconnect")
    assert "connect\n" not in sections["testbed: relay.log"]
    assert sections["testbed: mail.txt"].startswith("2.eml  ")
    assert "ann@example.org -> bob@example.com" in sections["testbed: mail.txt"]
    assert "\x1b" not in "".join(sections.values())
    found.save(tmp_path / "new" / "folder")
    assert (tmp_path / "new/folder/2.eml").read_bytes().endswith(b"Subject: =?utf-8?q?a=1B=5B31m?=\r\n\r\nhi\r\n")
    assert not (tmp_path / "new/folder/1.eml").exists()


def test_a_part_that_cannot_be_read_says_so_and_the_others_are_there(bed: Bed) -> None:
    mail_bed = held(bed)
    bed.take("bob@example.com")
    bed.running.nodes["relay"].container.remove()
    sections = dict(report.collect(mail_bed, time.time()).sections())
    assert sections["testbed: queue.txt"].startswith("not readable: ")
    assert sections["testbed: relay.log"].startswith("not readable: ")
    assert "bob@example.com" in sections["testbed: mail.txt"]


def test_a_test_may_stop_its_bed(bed: Bed) -> None:
    stopped = _Held(fixture="mail_bed", bed=held(bed), shared=False)
    config = Mock(workerinput={}, getoption=Mock(return_value="always"))
    beds, item = Beds(config), Mock(stash={})
    beds._held.append(stopped)
    item._request.fixturenames = ["mail_bed"]
    stopped.bed.inbox.reject()
    stopped.bed.stop()
    beds.pytest_runtest_setup(item)
    beds._add_evidence(stopped, item, Mock())
    stopped.remove_rules()
    beds._let_go(stopped)
    assert beds._kept == []
