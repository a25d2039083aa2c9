"""What happens when a node talks to more addresses of its link than the kernel's neighbour table holds?

Every address that a node talks to on its link takes an entry in the neighbour table. The whole kernel has room for
gc_thresh3 entries, 1,024 by default. If the table is full, look-ups and connections fail, and mail is deferred. All
addresses of the bed's servers are on the link. To prove a fix, the same bed is tried again with the fix.
Background: docs/neighbour-overflow.md.
"""

from contextlib import ExitStack

from orchestrator.bed.model import Bed, Families, NodeSpec
from orchestrator.errors import HostCannot
from orchestrator.hosts import capacity
from orchestrator.scenarios import Scenario
from orchestrator.scenarios.neighbour_overflow.drive import make_pass
from orchestrator.scenarios.neighbour_overflow.fixes import SETTING, apply_fix, thresholds
from orchestrator.scenarios.neighbour_overflow.params import CONNECT_TIMEOUT_S, FIXED, REPORTED, Params
from orchestrator.scenarios.neighbour_overflow.verdict import judge
from orchestrator.up.bed import RecordedBed

_IPV4_ALONE = {"smtp_address_preference": "ipv4", "smtp_mx_address_limit": 1, "smtp_balance_inet_protocols": False}
"""Postfix's settings without a retry over IPv6, because IPv6 has a neighbour table of its own (ndisc_cache)."""


class NeighbourOverflow(Scenario[Params]):
    """The scenario."""

    name = "neighbour-overflow"
    question = "Do look-ups and mail fail when there are more addresses on the link than the neighbour table holds?"
    params = Params
    judge = staticmethod(judge)
    provokes = frozenset({capacity.NEIGHBOURS})

    def bed(self, params: Params) -> Bed:
        """Return a relay bed with all addresses on the link; raises HostCannot if the user's consent is missing."""
        if params.fix == "gc-thresh" and not params.allow_host_changes:
            raise HostCannot(
                f"consent to raise {SETTING}1, 2 and 3 of the whole machine until the run ends",
                "none",
                "add --allow-host-changes; --fix route and --fix permanent change nothing outside the bed",
            )
        families = Families(params.families)
        listening = {"listen": "lab", "workers": 1} | ({"listen_v6": "service"} if families.has_v6 else {})
        main_cf = {**_IPV4_ALONE, "smtp_connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        nodes = {
            "dns": NodeSpec(service="bind", addresses=params.addresses + 1, settings=listening),
            "sink": NodeSpec(service="blackhole"),
            "relay": NodeSpec(service="postfix", settings={"main_cf": main_cf}),
            "load": NodeSpec(service="smtp-load"),
        }
        return Bed(name=self.name, domains=params.addresses, families=families, on_link=True, nodes=nodes)

    def drive(self, bed: RecordedBed, params: Params) -> None:
        """Make a pass of look-ups, connections and mail as reported; if a fix is given, a second pass with the fix."""
        with ExitStack() as stack:
            settings = None
            if params.fix == "gc-thresh":
                settings = stack.enter_context(bed.kernel_settings(thresholds(params.addresses)))
            make_pass(bed, params, REPORTED)
            if params.fix:
                with bed.phase(f"fix {params.fix}"):
                    apply_fix(bed, params.fix, settings)
                make_pass(bed, params, FIXED)


SCENARIO = NeighbourOverflow()
