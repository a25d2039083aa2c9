"""Commands about mail and DNS of a bed that is up: wait-mail, inbox, dns."""

from typing import Annotated, Any

import typer

from orchestrator.cli import chosen, shell
from orchestrator.cli.verbosity import verbose
from orchestrator.plaintext import plain

dns_app = typer.Typer(no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=1000, help="Messages to show, the newest first.")]
Query = Annotated[str, typer.Option(help='Words such as `to:bob@example.com subject:"two words" -tag:old`.')]


def wait_mail(
    to: Annotated[list[str] | None, typer.Option(help="A recipient of the envelope; several: each of them.")] = None,
    sender: Annotated[str | None, typer.Option(help="Sender of the envelope; `<>` is the empty one.")] = None,
    subject: Annotated[str | None, typer.Option(help="A part of the subject.")] = None,
    query: Query = "",
    after: Annotated[int | None, typer.Option(min=0, metavar="ID", help="Only messages after this one.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Messages to wait for.")] = 1,
    timeout: Annotated[float, typer.Option(min=0, max=600, help="Seconds to wait.")] = 30.0,
    bed: chosen.Option = None,
    output: shell.FormatOption = "text",
) -> None:
    """Wait until messages have arrived in the inbox of a bed, and show them."""
    given = {"to": to, "sender": sender, "subject": subject, "query": query or None, "after": after}
    conditions = {name: value for name, value in given.items() if value is not None}
    messages = chosen.attached(bed).inbox.wait(count=count, timeout=timeout, **conditions)
    shell.answer(output, messages, lambda: _show(messages))


def inbox(
    query: Query = "",
    limit: Limit = 50,
    log: Annotated[int | None, typer.Option(metavar="ID", help="Show the relay's log of this message instead.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the messages that match --query, or all.")] = False,
    bed: chosen.Option = None,
    output: shell.FormatOption = "text",
) -> None:
    """List the messages in the inbox of a bed, and print the address of its web page."""
    asked = chosen.attached(bed).inbox
    if delete:
        deleted = asked.delete(query=query)
        shell.answer(output, deleted, lambda: shell.tell(f"deleted: {len(deleted)}"))
        return
    if log is not None:
        found = asked.relay_log(log)
        texts = [*(line["text"] for line in found["lines"]), *filter(None, [found["problem"]])]
        shell.answer(output, found, lambda: shell.tell("\n".join(map(plain, texts))))
        return
    listing = asked.messages(query=query, limit=limit)

    def show() -> None:
        _show(listing["messages"])
        shell.tell(f"messages: {listing['total']}; page: {asked.url}/")

    shell.answer(output, listing, show)


@dns_app.callback(help="Break or change the DNS of a bed, and list the questions of its nodes.")
@verbose
def _dns() -> None:
    """Read the options that precede the name of a command."""


@dns_app.command()
@verbose
def fail(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A domain name, with * and ?.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="MX, A, TXT, ..., or * for any.")],
    then: Annotated[
        str,
        typer.Argument(metavar="THEN", help="SERVFAIL or another rcode, drop, delay, truncate or reset."),
    ] = "SERVFAIL",
    times: Annotated[int | None, typer.Option(min=1, help="Only the next questions, this many.")] = None,
    delay: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds to wait before the answer, of a rcode and of delay.")
    ] = 0.0,
    bed: chosen.Option = None,
    output: shell.FormatOption = "text",
) -> None:
    """Fail questions of a name and type; the newest rule that matches decides. Show the rule, with its id."""
    rule = chosen.attached(bed).dns.fail(name, kind, then, times=times, delay_s=delay)
    shell.answer(output, rule, lambda: _show_rules([rule]))


@dns_app.command(name="set")
@verbose
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The owner of the records, a full domain name.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="MX, A, TXT, CAA, ...")],
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA", help="Data of each record; none: remove.")] = None,
    ttl: Annotated[int, typer.Option(min=0, max=86400, help="Seconds that an answer may be kept.")] = 60,
    bed: chosen.Option = None,
) -> None:
    """Replace the records of a name and type; the bed answers with the new ones once the command has ended."""
    chosen.attached(bed).dns.set(name, kind, data or [], ttl=ttl)


@dns_app.command()
@verbose
def clear(
    rule: Annotated[int | None, typer.Argument(metavar="ID", help="The id of a rule; none: all rules.")] = None,
    bed: chosen.Option = None,
) -> None:
    """Remove one rule, or every rule."""
    gate = chosen.attached(bed).dns
    if rule is None:
        gate.clear()
    else:
        gate.remove(rule)


@dns_app.command()
@verbose
def rules(bed: chosen.Option = None, output: shell.FormatOption = "text") -> None:
    """List the rules in the order in which they are tried, each with its id and its hits: how often it was applied."""
    found = chosen.attached(bed).dns.rules()
    shell.answer(output, found, lambda: _show_rules(found))


@dns_app.command()
@verbose
def queries(
    after: Annotated[int, typer.Option(min=0, help="Only questions with an id above this one.")] = 0,
    bed: chosen.Option = None,
    output: shell.FormatOption = "text",
) -> None:
    """List the questions that reached the gate of a bed, the oldest first."""
    asked = chosen.attached(bed).dns.queries(after=after)

    def show() -> None:
        for one in asked:
            answer = one["rcode"] or "no answer"
            shell.tell(f"{one['id']:6}  {one['client']:15}  {one['over']}  {one['type']:6} {one['name']}  {answer}")

    shell.answer(output, asked, show)


def _show_rules(rules: list[dict[str, Any]]) -> None:
    for one in rules:
        then = one["rcode"] if one["then"] == "answer" else one["then"]
        limits = [f"{word} {one[key]}" for word, key in (("delay", "delay_s"), ("times", "times")) if one[key]]
        shell.tell(f"{one['id']:6}  {one['type']:6} {one['name']}  {', '.join([then, *limits])}; hits: {one['hits']}")


def _show(messages: list[dict[str, Any]]) -> None:
    for one in messages:
        recipients = ", ".join(one["recipients"])
        shell.tell(plain(f"{one['id']:6}  {one['sender'] or '<>'} -> {recipients}  {one['subject']}"))
