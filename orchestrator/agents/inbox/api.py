"""HTTP API of an inbox (``/openapi.json``): finds, awaits, marks and deletes messages; lists events; changes rules."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Path, Query, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.agents import rules
from orchestrator.agents.inbox import head, mime, search
from orchestrator.agents.inbox.authentication import MOST_CHECKED, Authentication, check
from orchestrator.agents.inbox.events import Event
from orchestrator.agents.inbox.feed import MESSAGE, Feed
from orchestrator.agents.inbox.relay_log import LOG, MessageLog, RelayLogs
from orchestrator.agents.inbox.session import InboxReception
from orchestrator.agents.inbox.spool import Spool
from orchestrator.agents.inbox.stored import Stored
from orchestrator.agents.inbox.words import LIMIT
from orchestrator.agents.rules import Rule

SEALED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; sandbox"
"""Content-Security-Policy of untrusted HTML: runs no script, sends no form, loads nothing (CSP level 3)."""
ATTACHED = {"Content-Disposition": "attachment", "Content-Security-Policy": SEALED}
NOT_STORED = {"Cache-Control": "no-store"}
_HARMLESS = re.compile(r"image/(png|jpeg|gif|webp)|text/plain|application/pdf|audio/[a-z0-9.+-]+|video/[a-z0-9.+-]+")
_LINK = re.compile("<link", re.IGNORECASE)
MOST_WAIT_S = 600.0
KEEP_ALIVE_S = 15.0
"""Seconds without events after which a stream sends a comment, so that proxies and readers keep the stream open."""
LARGEST = 2**63 - 1
"""Largest integer of SQLite."""
_PAGE = 1000
_FEW = 10
_SLICE = 200
"""Maximum number of messages deleted in one step; other requests are served between steps."""


class Mailbox(BaseModel):
    """A display name and an address of a header field."""

    name: str
    address: str


class Summary(BaseModel):
    """A message in a list. ``sender`` and ``recipients`` are the envelope's."""

    id: int
    t: float = Field(description="Unix time of its arrival")
    size: int = Field(description="octets")
    seen: bool
    sender: str
    recipients: list[str]
    client: str
    helo: str
    user: str | None
    tls: str | None
    subject: str
    author: list[Mailbox]
    to: list[Mailbox]
    cc: list[Mailbox]
    reply_to: list[Mailbox]
    message_id: str
    date: str
    tags: list[str]


class PartOf(BaseModel):
    """A part of a message."""

    id: str
    content_type: str
    filename: str
    content_id: str
    attachment: bool
    size: int


class Whole(Summary):
    """A message with its text and parts."""

    headers: list[tuple[str, str]]
    text: str
    html: str
    parts: list[PartOf]


class Listing(BaseModel):
    """A page of messages, the newest first."""

    total: int = Field(description="messages that match; in an answer of `wait` at most 1,000")
    messages: list[Summary]
    cursor: int = Field(description="id of the newest event, for `after` of events; messages have ids of their own")


class EventOf(BaseModel):
    """An event; the keys of ``data`` depend on its kind."""

    id: int
    t: float
    kind: str
    data: dict[str, Any]


class Events(BaseModel):
    """Events after a cursor, the oldest first."""

    events: list[EventOf]
    cursor: int


class RuleInForce(BaseModel):
    """A rule, and the number of times that it was applied."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    rule: Rule
    hits: int


class Bounced(BaseModel):
    """A message whose sender gets a notification."""

    sender: str
    recipient: str


class Bounces(BaseModel):
    """Notifications that ``bounce`` rules have ordered."""

    waiting: list[Bounced] = Field(description="those that the relay has not taken yet")
    total: int = Field(description="all since the start of the inbox")


class Gone(BaseModel):
    """Ids of the messages that were deleted."""

    deleted: list[int]


@dataclass(frozen=True, slots=True)
class Served:
    """The inbox behind the API, as ``app.state.here``."""

    inbox: InboxReception
    feed: Feed
    logs: RelayLogs
    checking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Semaphore of the authentication checks that run at the same time, each in a thread."""

    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Semaphore of the large messages that are read at the same time."""

    @property
    def spool(self) -> Spool:
        """The inbox's messages."""
        return self.inbox.spool

    def fields(self, stored: Stored) -> list[tuple[str, str]]:
        """Return the header fields of a message."""
        return list(head.fields(b"".join(self.spool.chunks(stored.id, head.LIMIT))))

    async def body(self, stored: Stored) -> mime.Body:
        """Read the parts of a message; a large message is read in a thread, one at a time."""
        if stored.size <= LIMIT:
            return mime.read(self.spool.raw(stored.id))
        async with self.reading:
            try:
                return await asyncio.to_thread(mime.read_file, self.spool.path(stored.id))
            except (KeyError, FileNotFoundError):
                raise HTTPException(404, f"message {stored.id} is not kept any longer") from None

    async def ready(self, where: search.Condition) -> search.Condition:
        """Index the messages that a condition needs, serving other requests meanwhile; return the condition."""
        for _ in self.spool.words.fill(where[0]):
            await asyncio.sleep(0)
        return where


class Parked:
    """A request that waits for matching messages; the condition is evaluated once for each message."""

    def __init__(self, spool: Spool, where: search.Condition, count: int) -> None:
        self._spool, self._where, self._count = spool, where, count
        self._matched = self._newest = 0

    def look(self) -> list[Stored] | None:
        """Return the matching messages once there are ``count`` or more; else ``None``."""
        if search.by_marks(self._where):
            self._matched = self._newest = 0
        self._matched += self._spool.total(*self._where, after=self._newest)
        self._newest = self._spool.newest
        if self._matched >= self._count:  # count again: matching messages may have been deleted
            self._matched = self._spool.total(*self._where)
        return self._spool.find(*self._where, limit=_PAGE) if self._matched >= self._count else None


async def _here(request: Request) -> Served:
    served: Served = request.app.state.here
    return served


Here = Annotated[Served, Depends(_here)]


async def _only_known(request: Request) -> None:
    """Refuse unknown query parameters: a request with a misspelt condition would match every message."""
    params = get_flat_params(request.scope["route"].dependant)
    known = {param.alias for param in params} - request.path_params.keys()
    if unknown := sorted(set(request.query_params) - known):
        raise HTTPException(422, f"query parameters of {request.url.path}: {sorted(known)}; unknown: {unknown}")


async def terms(
    here: Here,
    to: Annotated[list[str], Query(description="recipient of the envelope; several: each of them")] = [],  # noqa: B006
    sender: Annotated[str | None, Query(description="sender of the envelope; `<>`: the empty one")] = None,
    author: Annotated[str | None, Query(alias="from", description="address or name in From")] = None,
    subject: Annotated[str | None, Query(description="a part of the subject")] = None,
    message_id: str | None = None,
    query: Annotated[str, Query(description='words as Mailpit knows them: `to:x subject:"y z" -tag:old`')] = "",
    after: Annotated[int, Query(ge=0, le=LARGEST, description="messages with a larger id only")] = 0,
) -> search.Condition:
    """Read the conditions of a search from a query string."""
    given = [("rcpt", address) for address in to]
    given += [
        (field, value)
        for field, value in (("sender", sender), ("from", author), ("subject", subject), ("message-id", message_id))
        if value is not None
    ]
    for name, value in given:
        if not value.strip() or "\0" in value:
            raise HTTPException(422, f"{name}: needs a value without NUL (the empty sender is <>), not {value!r}")
    try:
        sql, args = search.where([*(search.Term(field=f, value=v) for f, v in given), *search.parse(query)])
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return await here.ready((f"{sql} AND id > ?", [*args, after]))


def summary(stored: Stored) -> dict[str, Any]:
    """Return the fields that a list of messages shows of each message."""
    envelope = {**asdict(stored.envelope), "recipients": list(stored.envelope.recipients)}
    facts = {"id": stored.id, "t": stored.t, "size": stored.size, "seen": stored.seen, "tags": list(stored.tags)}
    return {**stored.head, **envelope, **facts}


async def _kept(here: Annotated[Served, Depends(_here)], id_: Annotated[int, Path(le=LARGEST)]) -> Stored:
    try:
        return here.spool.get(id_)
    except KeyError:
        raise HTTPException(404, f"message {id_} is not kept") from None


Kept = Annotated[Stored, Depends(_kept)]
Searched = Annotated[search.Condition, Depends(terms)]
Cursor = Annotated[int, Query(ge=0, le=LARGEST, description="id of the last event that is known")]
LastEvent = Annotated[int | None, Header(alias="last-event-id", ge=0, le=LARGEST, description="`after` of a reconnect")]
api = APIRouter(prefix="/api", dependencies=[Depends(_only_known)])
"""All functions, dependencies too, are coroutines: the spool belongs to the event loop's thread."""


@api.get("/messages")
async def messages(
    here: Here,
    where: Searched,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    start: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
) -> Listing:
    """List messages, the newest first."""
    found = [Summary(**summary(stored)) for stored in here.spool.find(*where, limit=limit, start=start)]
    return Listing(total=here.spool.total(*where), messages=found, cursor=here.spool.events.cursor)


@api.delete("/messages")
async def delete(here: Here, where: Searched) -> Gone:
    """Delete the messages that match; without conditions, all messages."""
    return await remove(here.inbox, where)


@api.get("/wait", responses={409: {"description": "the messages did not come in time"}})
async def wait(
    here: Here,
    where: Searched,
    count: Annotated[int, Query(ge=1, le=_PAGE)] = 1,
    timeout: Annotated[float, Query(ge=0, le=MOST_WAIT_S, description="seconds")] = 30.0,  # noqa: ASYNC109
) -> Listing:
    """Wait until ``count`` messages match, then answer at once; earlier messages count, too. No polling is needed."""
    found = await here.feed.until(Parked(here.spool, where, count).look, timeout, MESSAGE)
    if found is None:
        total = here.spool.total(*where)
        last = [
            event.data["reply"]
            for event in here.spool.events.since(max(0, here.spool.events.cursor - _FEW), ["attempt"])
        ]
        raise HTTPException(409, {"needed": count, "found": total, "kept": here.spool.count, "last_attempts": last})
    return Listing(total=len(found), messages=[Summary(**summary(s)) for s in found], cursor=here.spool.events.cursor)


@api.get("/messages/{id_}")
async def message(here: Here, stored: Kept) -> Whole:
    """Return a message with its text and parts."""
    fields, body = here.fields(stored), await here.body(stored)
    parts = [PartOf(**facts(part), size=part.size) for part in body.parts]
    shown = {"headers": fields, "text": body.text, "html": body.html, "parts": parts}
    return Whole(**{**summary(stored), **shown})


@api.get("/messages/{id_}/authentication")
async def authentication(here: Here, stored: Kept) -> Authentication:
    """Check SPF, DKIM and DMARC of a message now, against the bed's DNS."""
    authors = [author["address"] for author in stored.head["author"]]
    async with here.checking:
        start = b"".join(here.spool.chunks(stored.id, MOST_CHECKED))
        return await asyncio.to_thread(check, start, stored.envelope, authors, whole=len(start) == stored.size)


@api.get("/messages/{id_}/log")
async def log(
    here: Here,
    stored: Kept,
    known: Annotated[int, Query(ge=-1, le=LARGEST, description="wait for more lines than this")] = -1,
    timeout: Annotated[float, Query(ge=0, le=MOST_WAIT_S, description="seconds")] = 0.0,  # noqa: ASYNC109
) -> MessageLog:
    """Return the relay's log lines about a message, once there are more than ``known`` lines, or after ``timeout``."""
    look = partial(here.logs.about, stored.envelope.client, here.fields(stored))

    def more() -> MessageLog | None:
        return found if len((found := look()).lines) > known else None

    return await here.feed.until(more, timeout, LOG) or look()


@api.delete("/messages/{id_}")
async def delete_one(here: Here, stored: Kept) -> Gone:
    """Delete a message."""
    return await remove(here.inbox, ("id = ?", [stored.id]))


@api.put("/messages/{id_}/seen")
async def seen(here: Here, stored: Kept, seen: Annotated[bool, Body()]) -> None:
    """Mark a message as seen or not."""
    here.spool.mark("id = ?", [stored.id], seen=seen)


@api.get("/messages/{id_}/raw", response_class=StreamingResponse)
async def raw(here: Here, stored: Kept) -> StreamingResponse:
    """Return the octets of a message as the client sent them after DATA."""
    return StreamingResponse(streamed(here.spool.chunks(stored.id)), media_type="message/rfc822", headers=ATTACHED)


@api.get("/messages/{id_}/html", response_class=Response)
async def html(here: Here, stored: Kept) -> Response:
    """Return the HTML of a message for a frame; the frame runs no script and loads nothing."""
    return framed((await here.body(stored)).html)


@api.get("/messages/{id_}/parts/{place}", response_class=Response)
async def part(here: Here, stored: Kept, place: str) -> StreamingResponse:
    """Return the content of a part, without its transfer encoding."""
    try:
        found = (await here.body(stored)).part(place)
    except KeyError:
        raise HTTPException(404, f"message {stored.id} has no part {place}") from None
    return StreamingResponse(streamed(found.octets()), media_type=media_type(found), headers=ATTACHED)


@api.get("/attempts")
async def attempts(
    here: Here,
    after: Cursor = 0,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
    newest: Annotated[bool, Query(description="the newest first, instead of the oldest")] = False,  # noqa: FBT002
) -> Events:
    """Return the recorded replies that rules, limits and authentication caused, with the refusals."""
    found = here.spool.events.since(after, ["attempt"], limit, newest=newest)
    cursor = max((event.id for event in found), default=after)
    return Events(events=[EventOf(**asdict(event)) for event in found], cursor=cursor)


@api.get("/bounces")
async def bounces(here: Here) -> Bounces:
    """Return the notifications that wait to be sent."""
    of = here.inbox.bouncer
    return Bounces(waiting=[Bounced(**facts) for facts in of.waiting], total=of.taken)


@api.get("/events", response_class=StreamingResponse)
async def events(here: Here, after: Cursor | None = None, last: LastEvent = None) -> StreamingResponse:
    """Stream events as server-sent events: the events after a cursor, or new events only."""
    cursor = next((known for known in (last, after) if known is not None), here.spool.events.cursor)
    return StreamingResponse(_events(here, cursor), media_type="text/event-stream", headers=NOT_STORED)


@api.get("/rules", response_model=list[RuleInForce])
async def get_rules(here: Here) -> list[rules.RuleInForce]:
    """Return the rules in force, in their order."""
    return here.inbox.rules.in_force


@api.put("/rules")
async def put_rules(here: Here, new: list[Rule]) -> None:
    """Replace all rules; hits begin at 0."""
    here.inbox.rules.replace(new)
    here.inbox.record("rules", {"rules": [rule.to_dict() for rule in new]})


@api.post("/rules", response_model=RuleInForce, status_code=201)
async def add_rule(here: Here, rule: Rule) -> rules.RuleInForce:
    """Put a rule in front of all others."""
    added = here.inbox.rules.add(rule)
    here.inbox.record("rules", {"added": added.id, "rule": rule.to_dict()})
    return added


@api.delete("/rules/{id_}", response_model=RuleInForce)
async def remove_rule(here: Here, id_: int) -> rules.RuleInForce:
    """Remove one rule."""
    try:
        removed = here.inbox.rules.remove(id_)
    except KeyError:
        raise HTTPException(404, f"no rule {id_} is in force") from None
    here.inbox.record("rules", {"removed": id_, "hits": removed.hits})
    return removed


async def remove(inbox: InboxReception, where: search.Condition) -> Gone:
    """Delete the messages that match now, and record their deletion as events; other requests are served meanwhile."""
    ids, deleted = inbox.spool.ids(*where), list[int]()
    for i in range(0, len(ids), _SLICE):
        some = ids[i : i + _SLICE]
        if gone := inbox.spool.delete(f"id IN ({', '.join('?' * len(some))})", some):
            inbox.record("deleted", {"ids": gone})
        deleted += gone
        await asyncio.sleep(0)
    return Gone(deleted=deleted)


def framed(html: str) -> Response:
    """Return HTML for a frame. ``<link>`` elements are renamed, because no policy prevents their ``dns-prefetch``."""
    text, policy = _LINK.sub("<no-link", html), {"Content-Security-Policy": SEALED}
    return Response(text, media_type="text/html; charset=utf-8", headers=policy)


def facts(part: mime.Part) -> dict[str, Any]:
    """Return the fields that a list of parts shows of each part."""
    return {name: getattr(part, name) for name in ("id", "content_type", "filename", "content_id", "attachment")}


def media_type(part: mime.Part) -> str:
    """Return a media type that no browser shows as a page or runs as a script."""
    return part.content_type if _HARMLESS.fullmatch(part.content_type) else "application/octet-stream"


async def streamed(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks one by one, so that other requests are served meanwhile."""
    for chunk in chunks:
        yield chunk


async def _events(here: Served, cursor: int) -> AsyncIterator[str]:
    yield f": events behind {cursor}\n\n"
    while not here.feed.closed:
        found = await here.feed.until(partial(_behind, here.spool, cursor), KEEP_ALIVE_S)
        for event in found or []:
            cursor = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps({'t': event.t, **event.data})}\n\n"
        if not found:
            yield ": nothing new\n\n"


def _behind(spool: Spool, cursor: int) -> list[Event] | None:
    return spool.events.since(cursor) or None
