"""A Postfix whose policy service waits before it answers for a recipient: more connections carry more, for long."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from orchestrator import services
from orchestrator.cli.progress import Steps
from orchestrator.hosts import docker
from orchestrator.runs import runner
from orchestrator.runs.runner import Finished
from orchestrator.scenarios import scenario
from orchestrator.services import Rendered, Site
from orchestrator.services.postfix import Postfix, Settings

NAME = "postfix-slow"
_SCRIPT = """\
$| = 1;
while (<STDIN>) {
    next if $_ ne "\\n";
    select(undef, undef, undef, WAIT);
    print "action=DUNNO\\n\\n";
}
"""
"""The policy protocol (Postfix, SMTPD_POLICY_README): attributes, an empty line; an action, an empty line."""
_MASTER = "slow unix - n n - 0 spawn user=nobody argv=/usr/bin/perl /etc/postfix/slow.pl\n"
_MAIN = "smtpd_recipient_restrictions = check_policy_service unix:private/slow\n"


class SlowPostfix(Postfix):
    """The service: spawn(8) starts a process for each smtpd(8), so that all of them wait at the same time."""

    name = NAME

    def __init__(self, wait_s: float, most: int | None = None) -> None:
        self._wait_s = wait_s
        self._most = most

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a relay for the bed, with the policy service."""
        plain = super().render(site)
        files = self._with_policy(plain.files)
        if self._most is not None:
            # Of smtpd only: the queue of connections that wait for one (listen(2)) is as long as default_process_limit.
            master = files["/etc/postfix/master.cf"]
            files["/etc/postfix/master.cf"] = re.sub(rb"(smtp +inet .+ )-( +smtpd)", rb"\g<1>%d\2" % self._most, master)
            assert files["/etc/postfix/master.cf"] != master
        return replace(plain, files=files)

    def _with_policy(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        more = {"/etc/postfix/main.cf": _MAIN, "/etc/postfix/master.cf": _MASTER}
        script = _SCRIPT.replace("WAIT", f"{self._wait_s:g}")
        return {
            **{path: content + more.get(path, "").encode() for path, content in files.items()},
            "/etc/postfix/slow.pl": script.encode(),
        }


@contextmanager
def known(wait_s: float, most: int | None = None) -> Iterator[None]:
    """Make it a service like any other, for a while; ``most``: of smtpd, and so messages that wait at a time."""
    services.known()[NAME] = cast("Any", SlowPostfix(wait_s, most))
    try:
        yield
    finally:
        del services.known()[NAME]


def run(runs: Path, *, wait_s: float, most: int | None = None, **params: object) -> Finished:
    """Run relay-throughput on such a relay, in this process."""
    with known(wait_s, most):
        asked = scenario("relay-throughput")
        steps = Steps()
        return runner.run(
            asked,
            asked.params.model_validate({"relay": NAME, **params}),
            connect=docker.connect,
            runs=runs,
            parent=None,
            command=[],
            steps=steps,
        )
