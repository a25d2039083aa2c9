"""Handle to a bed that another command brought up, from the bed's definition saved in each node."""

from ipaddress import IPv4Network

from orchestrator import strict_json
from orchestrator.bed.model import parse_bed
from orchestrator.errors import EngineFailed, InvalidInput
from orchestrator.hosts import Host
from orchestrator.hosts.ownership import DeployedBed
from orchestrator.plan import Plan, make_plan
from orchestrator.up.bed import RunningBed
from orchestrator.up.node import RunningNode

BED_FILE = "/testbed/bed.json"
"""File in every node: the bed's definition, the subnet, and the number of CPUs for which the plan was made."""
FORMAT = 1
"""Format of BED_FILE; a plan made from another format may differ from the running bed."""


def saved_bed(plan: Plan, cpus: int) -> bytes:
    """Return the content of BED_FILE."""
    bed = plan.bed.model_dump(mode="json", exclude_defaults=True)
    return strict_json.dumps({"format": FORMAT, "bed": bed, "subnet": str(plan.subnet), "cpus": cpus}).encode()


def unfinished(deployed: DeployedBed) -> EngineFailed:
    """Return the error for a bed with missing nodes."""
    found, do = "another command is bringing it up", "wait for the end of that command"
    if deployed.abandoned:
        found, do = "its bring-up was never finished", "`testbed clean` removes it"
    return EngineFailed(f"bed {deployed.bed} {deployed.id} up", found, do)


def attach(host: Host, deployed: DeployedBed) -> RunningBed:
    """Return the handle to a bed; the handle leaves out nodes whose container was removed.

    Raises:
        EngineFailed: the bed's bring-up has not finished, or never finished.
        InvalidInput: another version of testbed brought the bed up, or no container of a node remains.
    """
    containers = deployed.node_containers
    first = next(iter(containers.values()), None)
    content = host.node(first.id).read_file(BED_FILE) if first else None
    if content is None and not deployed.made:
        raise unfinished(deployed)
    if not first:
        raise InvalidInput(f"a node of bed {deployed.bed} {deployed.id}", "all were removed", "see `testbed ps`")
    try:
        saved = strict_json.loads((content or b"").decode())
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        needed = f"a bed of this version of testbed (format {FORMAT})"
        file = f"{BED_FILE}: {'no such file' if content is None else content[:60]!r}"
        do = "use the version that brought it up, or bring it up again"
        raise InvalidInput(needed, f"bed {deployed.bed} {deployed.id}, {file}", do)
    plan = make_plan(parse_bed(saved["bed"], "bed"), subnet=IPv4Network(saved["subnet"]), cpus=saved["cpus"])
    nodes = {
        node.name: RunningNode(
            plan=node,
            container=host.node(container.id),
            ports=container.ports,
            published_at=deployed.published_at,
        )
        for node in plan.nodes
        if (container := containers.get(node.name))
    }
    return RunningBed(host=host, plan=plan, nodes=nodes, deployed=deployed)
