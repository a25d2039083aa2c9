"""The part of Mailpit's HTTP API v1 that Mailpit's clients use: messages, search, tags, send, chaos.

The id of a message is the inbox's number, as text. An unsupported request gets status 501 with the reason.
"""

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, formataddr, parsedate_to_datetime
from hashlib import md5, sha1, sha256
from mimetypes import guess_type
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from orchestrator.agents.inbox import head, mime, search
from orchestrator.agents.inbox.api import ATTACHED, LARGEST, SEALED, Here, Served, framed, media_type, remove, streamed
from orchestrator.agents.inbox.folding import not_named
from orchestrator.agents.inbox.mailpit_bodies import Address, Chaos, Ids, Reading, Renaming, Send, Tagging, Trigger
from orchestrator.agents.inbox.stored import Envelope, Stored
from orchestrator.agents.inbox.words import MATCHES
from orchestrator.agents.rules import Action, Moment, Rule

LIKE = "v1.30.0"
"""Release of Mailpit. This module implements a part of its API."""
_MOMENTS = {"Sender": Moment.MAIL, "Recipient": Moment.RCPT, "Authentication": Moment.AUTH}
_SUMS = {"MD5": md5, "SHA1": sha1, "SHA256": sha256}
_ABSENT = "not in this inbox: an inbox follows no link in a message, and keeps mail in the bed"
_MOST = 1000
"""Maximum number of messages in a list."""
_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322, 2.2
_RELAY = ("SMTPServer", "ReturnPath", "AllowedRecipients", "BlockedRecipients", "OverrideFrom")


async def _kept(here: Here, id_: str) -> Stored:
    found = (
        here.spool.find(limit=1) if id_ == "latest" else here.spool.find("id = ?", (id_,)) if id_.isdecimal() else []
    )
    if not found:
        raise HTTPException(404, "message not found")
    return found[0]


async def _condition(here: Here, query: str) -> search.Condition:
    if not query.strip():
        raise HTTPException(400, "a query is needed")
    try:
        return await here.ready(search.where(search.parse(query)))
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


Kept = Annotated[Stored, Depends(_kept)]
Searched = Annotated[search.Condition, Depends(_condition)]
Start = Annotated[int, Query(ge=0, le=LARGEST)]
Limit = Annotated[int, Query(ge=0, le=_MOST)]
v1 = APIRouter(prefix="/api/v1", tags=["Mailpit"])
plain = APIRouter(tags=["Mailpit"])


# --------------------------------------------------------------------------------------------------------------- lists


@v1.get("/messages")
async def messages(here: Here, start: Start = 0, limit: Limit = 50) -> dict[str, Any]:
    """List messages, the newest first."""
    return await _listing(here, ("1", []), start, limit)


@v1.get("/search")
async def searched(here: Here, where: Searched, start: Start = 0, limit: Limit = 50) -> dict[str, Any]:
    """List the messages that match."""
    return await _listing(here, where, start, limit)


@v1.put("/messages", response_class=PlainTextResponse)
async def read(here: Here, body: Reading) -> str:
    """Mark messages as read or not."""
    where = await _condition(here, body.Search) if body.Search else _of(body.IDs)
    here.spool.mark(*where, seen=body.Read)
    return "ok"


@v1.delete("/messages", response_class=PlainTextResponse)
async def delete(here: Here, body: Ids | None = None) -> str:
    """Delete the messages with these ids; without ids, delete all messages."""
    await remove(here.inbox, _of(body.IDs if body else []))
    return "ok"


@v1.delete("/search", response_class=PlainTextResponse)
async def delete_searched(here: Here, where: Searched) -> str:
    """Delete the messages that match."""
    await remove(here.inbox, where)
    return "ok"


@v1.get("/tags")
async def tags(here: Here) -> list[str]:
    """List the tags in use."""
    return here.spool.tags()


@v1.put("/tags", response_class=PlainTextResponse)
async def put_tags(here: Here, body: Tagging) -> str:
    """Replace the tags of messages."""
    if body.IDs:
        here.spool.tag(body.Tags, *_of(body.IDs))
    return "ok"


@v1.put("/tags/{tag:path}", response_class=PlainTextResponse)
async def rename_tag(here: Here, tag: str, body: Renaming) -> str:
    """Rename a tag."""
    here.spool.retag(tag, body.Name)
    return "ok"


@v1.delete("/tags/{tag:path}", response_class=PlainTextResponse)
async def delete_tag(here: Here, tag: str) -> str:
    """Remove a tag from all messages."""
    here.spool.retag(tag, None)
    return "ok"


# ---------------------------------------------------------------------------------------------------------- one message


@v1.get("/message/{id_}")
async def message(here: Here, stored: Kept) -> dict[str, Any]:
    """Return a message, and mark it as read."""
    fields, body = here.fields(stored), await here.body(stored)
    here.spool.mark("id = ?", [stored.id], seen=True)
    listed = _listed(stored)
    for name in ("Read", "Created", "Snippet", "Attachments"):
        del listed[name]
    unsubscribe = next((value for name, value in fields if name.lower() == "list-unsubscribe"), "")
    return {
        **listed,
        "ReturnPath": stored.envelope.sender,
        "Date": _date(stored),
        "Text": body.text,
        "HTML": body.html,
        "ListUnsubscribe": {"Header": unsubscribe, "Links": [], "Errors": "", "HeaderPost": ""},
        "Inline": await asyncio.to_thread(_attached, body.inline),
        "Attachments": await asyncio.to_thread(_attached, body.attachments),
    }


@v1.get("/message/{id_}/headers")
async def headers(here: Here, stored: Kept) -> dict[str, list[str]]:
    """Return the header fields by name."""
    found: dict[str, list[str]] = {}
    for name, value in here.fields(stored):
        found.setdefault(name.title(), []).append(head.decoded(value))
    return found


@v1.get("/message/{id_}/raw", response_class=Response)
async def raw(here: Here, stored: Kept) -> StreamingResponse:
    """Return the octets of a message."""
    sealed = {"Content-Security-Policy": SEALED}
    chunks = here.spool.chunks(stored.id)
    return StreamingResponse(streamed(chunks), media_type="text/plain; charset=utf-8", headers=sealed)


@v1.get("/message/{id_}/part/{place}", response_class=Response)
async def part(here: Here, stored: Kept, place: str) -> StreamingResponse:
    """Return the content of a part."""
    try:
        found = (await here.body(stored)).part(place)
    except KeyError:
        raise HTTPException(404, "part not found") from None
    return StreamingResponse(streamed(found.octets()), media_type=media_type(found), headers=ATTACHED)


@plain.get("/view/{name}", response_class=Response)
async def view(here: Here, name: str) -> Response:
    """Return the HTML (``ID.html``) or the text (``ID.txt``) of a message."""
    id_, _, kind = name.rpartition(".")
    if kind not in {"html", "txt"}:
        raise HTTPException(404, "message not found")
    body = await here.body(await _kept(here, id_))
    if kind == "html":
        return framed(body.html)
    return PlainTextResponse(body.text, headers={"Content-Security-Policy": SEALED})


# ------------------------------------------------------------------------------------------------------------ the rest


@v1.post("/send")
async def send(here: Here, body: Send) -> dict[str, str]:
    """Put a message into the inbox, without SMTP."""
    to = [address.Email for address in (*body.To, *body.Cc)] + body.Bcc
    if not to:
        raise HTTPException(400, "To, Cc or Bcc is needed")
    envelope = Envelope(sender=body.From.Email, recipients=tuple(to), client="", helo="")
    try:
        "".join(body.Tags).encode()  # a lone surrogate has no encoding
        id_ = here.inbox.put(_composed(body), envelope)
    except (OSError, TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    if body.Tags:
        here.spool.tag(body.Tags, "id = ?", [id_])
    return {"ID": str(id_)}


@v1.get("/info")
async def info(here: Here) -> dict[str, Any]:
    """Return the inbox's version and counts."""
    return {
        "Version": LIKE,
        "LatestVersion": LIKE,
        "Database": str(here.spool.folder),
        "DatabaseSize": here.spool.size,
        "Messages": here.spool.count,
        "Unread": here.spool.total("seen = 0"),
        "Tags": {
            tag: here.spool.total("id IN (SELECT message FROM tags WHERE tag = ?)", [tag]) for tag in here.spool.tags()
        },
        "RuntimeStats": {},
    }


@v1.get("/webui")
async def webui() -> dict[str, Any]:
    """Return the settings of the web page."""
    return {
        "Label": "testbed",
        "MessageRelay": {"Enabled": False, "PreserveMessageIDs": False, **dict.fromkeys(_RELAY, "")},
        "SpamAssassin": False,
        "ChaosEnabled": True,
        "DuplicatesIgnored": False,
        "HideDeleteAllButton": False,
    }


@v1.get("/chaos")
async def chaos(here: Here) -> Chaos:
    """Return the random failures in force."""
    triggers = {rule.moment: rule for rule in (kept.rule for kept in here.inbox.chaos.in_force)}
    return Chaos(
        **{
            name: Trigger(ErrorCode=int(rule.answer()[:3]), Probability=round(100 * rule.chance))
            for name, moment in _MOMENTS.items()
            if (rule := triggers.get(moment)) is not None
        }
    )


@v1.put("/chaos")
async def put_chaos(here: Here, body: Chaos | None = None) -> Chaos:
    """Set the random failures; a request without a body removes them."""
    rules = []
    for name, moment in _MOMENTS.items():
        trigger: Trigger = getattr(body, name, Trigger())
        if trigger.Probability:
            then = Action.DEFER if trigger.ErrorCode < 500 else Action.REJECT
            reply = f"{trigger.ErrorCode} Chaos sends this"
            rules.append(Rule(on=moment, then=then, reply=reply, chance=trigger.Probability / 100))
    here.inbox.chaos.replace(rules)
    return await chaos(here)


@plain.get("/livez", response_class=PlainTextResponse)
@plain.get("/readyz", response_class=PlainTextResponse)
async def alive() -> str:
    """Report that the inbox accepts requests."""
    return "ok"


@v1.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
async def absent(path: str) -> Response:
    """Refuse every other path of Mailpit's API."""
    return PlainTextResponse(f"/api/v1/{path} is {_ABSENT}", 501)


def _of(ids: Sequence[str]) -> search.Condition:
    """Return the condition that selects messages by id; without ids, all messages."""
    return ("id IN (SELECT value FROM json_each(?))", [json.dumps(ids)]) if ids else ("1", [])


async def _listing(here: Served, where: search.Condition, start: int, limit: int) -> dict[str, Any]:
    await here.ready((MATCHES, []))  # a message gets its snippet when its words are indexed
    found = here.spool.find(*where, limit=limit, start=start)
    sql, args = where
    total, unread = here.spool.total(sql, args), here.spool.total(f"{sql} AND seen = 0", args)
    return {
        "total": here.spool.count,
        "unread": here.spool.total("seen = 0"),
        "count": len(found),
        "messages_count": total,
        "messages_unread": unread,
        "start": start,
        "tags": here.spool.tags(),
        "messages": [_listed(stored) for stored in found],
    }


def _listed(stored: Stored) -> dict[str, Any]:
    fields = stored.head
    named = [one["address"] for name in ("to", "cc", "bcc") for one in fields[name]]
    hidden = [{"name": "", "address": to} for to in not_named(stored.envelope.recipients, named)]
    author = fields["author"][0] if fields["author"] else {"name": "", "address": stored.envelope.sender}
    return {
        "ID": str(stored.id),
        "MessageID": fields["message_id"],
        "Read": stored.seen,
        "From": _mailbox(author),
        "To": [_mailbox(one) for one in fields["to"]],
        "Cc": [_mailbox(one) for one in fields["cc"]],
        "Bcc": [_mailbox(one) for one in (*fields["bcc"], *hidden)],
        "ReplyTo": [_mailbox(one) for one in fields["reply_to"]],
        "Subject": fields["subject"],
        "Created": datetime.fromtimestamp(stored.t, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "Username": stored.envelope.user or "",
        "Tags": list(stored.tags),
        "Size": stored.size,
        "Attachments": stored.attachments,
        "Snippet": stored.snippet,
    }


def _mailbox(one: dict[str, str]) -> dict[str, str]:
    return {"Name": one["name"], "Address": one["address"]}


def _date(stored: Stored) -> str:
    try:
        read = parsedate_to_datetime(stored.head["date"])
    except ValueError:
        read = datetime.fromtimestamp(stored.t, UTC)
    return read.isoformat()


def _attached(parts: Sequence[mime.Part]) -> list[dict[str, Any]]:
    return [
        {
            "PartID": part.id,
            "FileName": part.filename,
            "ContentType": part.content_type,
            "ContentID": part.content_id,
            "Size": part.size,
            "Checksums": _sums(part),
        }
        for part in parts
    ]


def _sums(part: mime.Part) -> dict[str, str]:
    sums = {name: kind(usedforsecurity=False) for name, kind in _SUMS.items()}
    for octets in part.octets():
        for one in sums.values():
            one.update(octets)
    return {name: one.hexdigest() for name, one in sums.items()}


def _composed(body: Send) -> bytes:
    """Compose the message of a request.

    Raises:
        TypeError, ValueError: a field cannot be written.
    """
    message = EmailMessage()
    message["From"], message["Subject"] = _written(body.From), body.Subject
    for name, those in (("To", body.To), ("Cc", body.Cc), ("Reply-To", body.ReplyTo)):
        if those:
            message[name] = ", ".join(map(_written, those))
    message["Date"] = format_datetime(datetime.now(UTC))
    for name, value in body.Headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"the name of a header field is of visible ASCII characters, not {name[:40]!r}")
        message[name] = value
    message.set_content(body.Text)
    if body.HTML:
        message.add_alternative(body.HTML, subtype="html")
    for file in body.Attachments:
        media = file.ContentType or guess_type(file.Filename)[0] or "application/octet-stream"
        main, _, sub = media.partition("/")
        cid = f"<{file.ContentID}>" if file.ContentID else None
        content = b64decode(file.Content, validate=True)
        message.add_attachment(content, main, sub or "octet-stream", filename=file.Filename, cid=cid)
    return message.as_bytes(policy=policy.SMTP)


def _written(address: Address) -> str:
    return formataddr((address.Name, address.Email))
