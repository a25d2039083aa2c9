"""Does BIND with thousands of addresses run over its limit of sockets, and then refuse to shut down?

named listens with a UDP and a TCP socket for each address and worker. 9.16 refuses every outgoing socket whose number
is at or over ``-S``: it fetches no key, resolves nothing and accepts no rndc. The question is asked of a named as
reported (node ``dns``) and, with a fix, of a second one beside it (``fixed``). docs/bind-fd-limit.md tells the story.

::

    verdict       the judgement of a run
    seen          what the run directory says of one named
    drive         what is asked of each named
    signatures    what is looked for in their logs
    named         how each is set up, and what is predicted of it
    params        what can be varied
"""

from orchestrator.bed.model import Bed, Families
from orchestrator.measurements import Measurements
from orchestrator.scenarios import Verdict
from orchestrator.scenarios.bind_fd_limit.drive import count_open, ended_at_start, stop
from orchestrator.scenarios.bind_fd_limit.named import servers
from orchestrator.scenarios.bind_fd_limit.params import Params
from orchestrator.scenarios.bind_fd_limit.verdict import judge
from orchestrator.up.bed import RecordedBed


class BindFdLimit:
    """The scenario."""

    name = "bind-fd-limit"
    question = "Does BIND with this many addresses run over its limit of sockets, and then refuse to shut down?"
    params = Params
    provokes = frozenset({"open files, by the daemon's own limit"})

    def bed(self, params: Params) -> Bed:
        """Return a bed of name servers only: as reported, and with the fix beside it."""
        nodes = {name: named.node() for name, named in servers(params).items()}
        return Bed(name=self.name, domains=4, families=Families(params.families), nodes=nodes)

    def smaller(self, params: Params) -> str | None:
        """Say what to ask of a host that cannot give this bed what it needs."""
        small = f"testbed run {self.name} --workers 2 --max-sockets 4096"
        return f"ask the same at a smaller scale: {small}" if params.full or params.workers > Params().workers else None

    def drive(self, bed: RecordedBed, params: Params) -> None:  # noqa: ARG002 - the bed says it all
        """Wait for the first outgoing sockets, count what is open, and then ask each server to stop."""
        running = [node for node in bed.nodes.values() if not ended_at_start(bed, node)]
        with bed.phase("fetch keys"):
            for node in running:
                count_open(bed, node)
        for node in running:
            stop(bed, node)

    def judge(self, measured: Measurements, params: Params) -> Verdict:
        """Say whether the limit was met, and whether the fix keeps clear of it."""
        return judge(measured, params)


SCENARIO = BindFdLimit()
