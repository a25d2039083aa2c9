"""Commands about mail and DNS of a bed that is up: wait-mail, inbox, dns."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import beds, shell
from orchestrator.cli.verbosity import verbose
from orchestrator.errors import EngineFailed, InvalidInput, TimedOut
from orchestrator.plaintext import plain

if TYPE_CHECKING:
    from orchestrator.hosts import Found
    from orchestrator.up.bed import RunningBed
    from orchestrator.up.node import RunningNode

_HTTP = "8025/tcp"
dns_app = typer.Typer(no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=1000, help="Messages to show, the newest first.")]
Query = Annotated[str, typer.Option(help='Words such as `to:bob@example.com subject:"two words" -tag:old`.')]


def wait_mail(
    to: Annotated[list[str] | None, typer.Option(help="A recipient of the envelope; several: each of them.")] = None,
    sender: Annotated[str | None, typer.Option(help="Sender of the envelope; `<>` is the empty one.")] = None,
    subject: Annotated[str | None, typer.Option(help="A part of the subject.")] = None,
    query: Query = "",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Messages to wait for.")] = 1,
    timeout: Annotated[float, typer.Option(min=0, max=600, help="Seconds to wait.")] = 30.0,
    bed: beds.DeployedOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """Wait until messages have arrived in the inbox of a bed, and show them."""
    conditions = [("to", one) for one in to or ()]
    conditions += [(n, v) for n, v in (("sender", sender), ("subject", subject), ("query", query)) if v]
    listing = _ask(bed, "wait", [*conditions, ("count", str(count)), ("timeout", str(timeout))], timeout + 10)
    shell.answer(output, listing["messages"], lambda: _show(listing["messages"]))


def inbox(
    query: Query = "",
    limit: Limit = 50,
    log: Annotated[int | None, typer.Option(metavar="ID", help="Show the relay's log of this message instead.")] = None,
    bed: beds.DeployedOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """List the messages in the inbox of a bed, and say where its web page is."""
    if log is not None:
        lines = _relay_log(bed, log)
        shell.answer(output, lines, lambda: shell.tell("\n".join(plain(line["text"]) for line in lines)))
        return
    listing = _ask(bed, "messages", [("query", query), ("limit", str(limit))], 60)

    def show() -> None:
        _show(listing["messages"])
        shell.tell(f"{listing['total']} messages; the page: {_url(bed)}/")

    shell.answer(output, listing, show)


@dns_app.callback(help="Break or change the DNS of a bed, and see what it was asked.")
@verbose
def _dns() -> None:
    """Read the options before the name of a command."""


@dns_app.command()
@verbose
def fail(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A domain name, with * and ?.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="MX, A, TXT, ..., or * for any.")],
    then: Annotated[
        str,
        typer.Argument(metavar="THEN", help="SERVFAIL or another rcode, drop, truncate or reset."),
    ] = "SERVFAIL",
    times: Annotated[int | None, typer.Option(min=1, help="The next so many questions only.")] = None,
    delay: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait before the answer.")] = 0.0,
    bed: beds.DeployedOption = None,
) -> None:
    """Fail questions of a name and type; the newest rule that matches decides."""
    rule: dict[str, Any] = {"name": name, "type": kind, "times": times, "delay_s": delay}
    rule |= (
        {"then": then.lower()} if then.lower() in {"drop", "truncate", "reset", "delay"} else {"rcode": then.upper()}
    )
    _control(bed, "add", json.dumps([rule]))


@dns_app.command(name="set")
@verbose
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The owner of the records, a full domain name.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="MX, A, TXT, CAA, ...")],
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA", help="Data of each record; none: remove.")] = None,
    ttl: Annotated[int, typer.Option(min=0, max=86400, help="Seconds that an answer may be kept.")] = 60,
    bed: beds.DeployedOption = None,
) -> None:
    """Replace the records of a name and type; the bed answers with the new ones once the command has ended."""
    from orchestrator import services
    from orchestrator.services import Role, TakesUpdates

    lines = _changes(name, kind, data or [], ttl)
    node = _attached(bed).role(Role.DNS)
    server = services.service(node.plan.service)
    command = (
        server.update(node.plan.files, str(node.plan.address), lines) if isinstance(server, TakesUpdates) else None
    )
    if command is None:
        needed = f"a DNS server that takes changes, instead of node {node.name}"
        raise InvalidInput(needed, f"service {server.name}", "give the node `settings: {update: true}` (bind)")
    done = node.exec(*command)
    if done.status != 0:
        raise EngineFailed(f"the records of {name} changed", done.failure, f"see `testbed logs {node.name}`")


def _changes(name: str, kind: str, data: list[str], ttl: int) -> list[str]:
    """Return the changes in the words of nsupdate(1); every word has gone through dnspython."""
    import dns.exception
    import dns.name
    import dns.rdata
    import dns.rdatatype

    if not all(one.isprintable() for one in data):
        raise InvalidInput(
            "data of DNS records on one line", repr(data), "leave line breaks and control characters out"
        )
    try:
        owner, of = dns.name.from_text(name).to_text(), dns.rdatatype.from_text(kind)
        made = [dns.rdata.from_text("IN", of, one, origin=dns.name.root, relativize=False) for one in data]
        rdatas = [rdata.to_text() for rdata in made]
    except (dns.exception.DNSException, ValueError) as error:
        raise InvalidInput("a name, a type and data of DNS records", f"{name} {kind}: {error}", "correct it") from error
    word = dns.rdatatype.to_text(of)
    return [f"update delete {owner} {word}", *(f"update add {owner} {ttl} IN {word} {rdata}" for rdata in rdatas)]


@dns_app.command()
@verbose
def clear(bed: beds.DeployedOption = None) -> None:
    """Remove every rule."""
    _control(bed, "clear")


@dns_app.command()
@verbose
def queries(
    after: Annotated[int, typer.Option(min=0, help="Later ones than the query of this id.")] = 0,
    bed: beds.DeployedOption = None,
    output: shell.FormatOption = "text",
) -> None:
    """List the questions that the DNS of a bed was asked, the oldest first."""
    asked = _control(bed, "queries", str(after))

    def show() -> None:
        for one in asked:
            answer = one["rcode"] or "no answer"
            shell.tell(f"{one['id']:6}  {one['client']:15}  {one['over']}  {one['type']:6} {one['name']}  {answer}")

    shell.answer(output, asked, show)


def _show(messages: list[dict[str, Any]]) -> None:
    for one in messages:
        recipients = ", ".join(one["recipients"])
        shell.tell(plain(f"{one['id']:6}  {one['sender'] or '<>'} -> {recipients}  {one['subject']}"))


def _relay_log(bed: str | None, message: int) -> list[dict[str, Any]]:
    """Return the lines of the relay's log with the queue id of a message, which its newest Received field names."""
    from orchestrator.bed.addressing import twin
    from orchestrator.services import Role

    kept = _ask(bed, f"messages/{message}", [], 60)
    relay = _attached(bed).role(Role.RELAY)
    received = next((value for name, value in kept["headers"] if name.lower() == "received"), "")
    queued = re.search(r"\sid ([0-9A-Za-z]+)\b", received)
    if queued is None or kept["client"] not in {str(relay.plan.v4), str(twin(relay.plan.v4))}:
        found = f"message {message} from {kept['client'] or 'HTTP'}, {received or 'without a Received field'}"
        raise InvalidInput(f"a message that came through node {relay.name}", plain(found), "see `testbed inbox`")
    of_it = re.compile(rf"\b{queued[1]}\b")
    return [{"t": round(line.t, 6), "text": line.text} for line in relay.log() if of_it.search(line.text)]


def _attached(bed: str | None) -> "RunningBed":
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach

    host = docker.connect()
    return attach(host, beds.find(host, bed, "`--bed ID`"))


def _node(bed: str | None, service: str) -> "tuple[RunningNode, Found]":
    """Attach to a bed and return its running node of a service."""
    from orchestrator.hosts import docker
    from orchestrator.up.attach import attach

    host = docker.connect()
    deployed = beds.find(host, bed, "`--bed ID`")
    nodes = [node for node in attach(host, deployed).nodes.values() if node.plan.service == service]
    if not nodes:
        raise InvalidInput(f"a node of the service {service}", f"none in bed {deployed.bed}", "use the bed `mail`")
    container = deployed.node(nodes[0].name)
    if container is None or container.state != "running":
        found = container.state if container else "removed"
        do = f"see `testbed logs --bed {deployed.id} {nodes[0].name}`"
        raise EngineFailed(f"node {nodes[0].name} running", f"it is {found}", do)
    return nodes[0], container


def _url(bed: str | None) -> str:
    _, container = _node(bed, "inbox")
    return f"http://127.0.0.1:{container.ports[_HTTP]}"


def _ask(bed: str | None, path: str, words: list[tuple[str, str]], timeout: float) -> Any:
    url = f"{_url(bed)}/api/{path}?{urllib.parse.urlencode(words)}"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 - the scheme is ours
            return json.load(answer)
    except urllib.error.HTTPError as error:
        detail = json.load(error)["detail"]
        if error.code == 408:
            last = "; ".join(detail["last_attempts"]) or "none was refused"
            found = f"{detail['found']} of {detail['kept']} messages match; last refused attempts: {last}"
            needed = f"{detail['needed']} messages that match"
            raise TimedOut(needed, found, "see `testbed inbox`, `testbed logs relay`") from None
        raise InvalidInput("a search that the inbox can read", plain(str(detail)), "correct it") from None
    except OSError as error:
        raise EngineFailed("the inbox's published port", str(error), "see `testbed ps`") from error


def _control(bed: str | None, *words: str) -> Any:
    from orchestrator.services.dns_gate import SERVICE

    node, _ = _node(bed, SERVICE.name)
    done = node.exec(*SERVICE.control, *words)
    if done.status != 0:
        raise InvalidInput("a rule that the gate takes", done.failure, "correct it")
    return json.loads(done.stdout)
