"""A Postfix whose policy service waits before it answers for a recipient: more connections carry more, for long."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator import runner, services
from orchestrator.cli.progress import Steps
from orchestrator.engine import docker
from orchestrator.runner import Finished
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

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a relay for the bed, with the policy service."""
        plain = super().render(site)
        return replace(plain, files=self._with_policy(plain.files))

    def _with_policy(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        more = {"/etc/postfix/main.cf": _MAIN, "/etc/postfix/master.cf": _MASTER}
        script = _SCRIPT.replace("WAIT", f"{self._wait_s:g}")
        return {
            **{path: content + more.get(path, "").encode() for path, content in files.items()},
            "/etc/postfix/slow.pl": script.encode(),
        }


def run(runs: Path, *, wait_s: float, **params: object) -> Finished:
    """Run relay-throughput on such a relay, in this process."""
    known = services.known()
    known[NAME] = SlowPostfix(wait_s)
    try:
        asked = scenario("relay-throughput")
        with Steps() as steps:
            return runner.run(
                asked,
                asked.params.model_validate({"relay": NAME, **params}),
                connect=docker.connect,
                runs=runs,
                parent=None,
                command=[],
                steps=steps,
            )
    finally:
        del known[NAME]
