"""Does BIND with thousands of addresses run over its limit of sockets, and then refuse to shut down?

named, BIND's server, listens with a UDP and a TCP socket for each address and worker. BIND 9.16 refuses every outgoing
socket whose descriptor is at or over the limit ``-S``. A named over this limit fetches no key, resolves no name and
accepts no command of rndc. The bed's node ``dns`` runs a named as in the bug report; with a fix to prove, node
``fixed`` runs a named with the fix. Background: docs/bind-fd-limit.md.
"""

from orchestrator.bed.model import Bed, Families
from orchestrator.scenarios import Scenario
from orchestrator.scenarios.bind_fd_limit.drive import count_open, ended_at_start, stop
from orchestrator.scenarios.bind_fd_limit.named import Params, servers
from orchestrator.scenarios.bind_fd_limit.verdict import judge
from orchestrator.up.bed import RecordedBed


class BindFdLimit(Scenario[Params]):
    """The scenario."""

    name = "bind-fd-limit"
    question = "Does BIND with this many addresses run over its limit of sockets, and then refuse to shut down?"
    params = Params
    judge = staticmethod(judge)
    provokes = frozenset({"open files, by the daemon's own limit"})

    def bed(self, params: Params) -> Bed:
        """Return a bed of name servers only: node ``dns`` as in the report and, if a fix is given, node ``fixed``."""
        nodes = {name: named.node() for name, named in servers(params).items()}
        return Bed(name=self.name, domains=4, families=Families(params.families), nodes=nodes)

    def smaller(self, params: Params) -> str | None:
        """Return advice for a host that is too small for this bed."""
        small = f"testbed run {self.name} --workers 2 --max-sockets 4096"
        return f"run it at a smaller scale: {small}" if params.full or params.workers > Params().workers else None

    def drive(self, bed: RecordedBed, params: Params) -> None:  # noqa: ARG002 - the bed holds all parameters
        """Wait for each server's first outgoing sockets and count its open files; then stop each server."""
        running = [node for node in bed.nodes.values() if not ended_at_start(bed, node)]
        with bed.phase("fetch keys"):
            for node in running:
                count_open(bed, node)
        for node in running:
            stop(bed, node)


SCENARIO = BindFdLimit()
