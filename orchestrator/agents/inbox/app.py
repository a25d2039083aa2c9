"""HTTP application of an inbox: its API, Mailpit's API, metrics, web page; checks of the Host and Origin fields."""

from collections.abc import Collection
from importlib import resources
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.agents.inbox import mailpit
from orchestrator.agents.inbox.api import Here, Served, api

LOCAL = ("localhost", "inbox")
"""Accepted names in the Host field. Other names are refused: a page could reach the inbox by DNS rebinding."""
MOST_BODY = 16 * 1024 * 1024
"""Maximum octets of a request's body, which is read into memory as a whole."""
_TOO_LARGE = f"a body of at most {MOST_BODY} octets is needed; send a larger message by SMTP"
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-dns-prefetch-control", b"off"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_MEDIA = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
rest = APIRouter()


def create(served: Served, names: Collection[str] = LOCAL) -> ASGIApp:
    """Return the application; ``names``: accepted names in the Host field."""
    app = FastAPI(
        title="Inbox of a testbed",
        description="Messages, waiting for them, rules that refuse or delay mail. `/api/v1` is a part of Mailpit's.",
        version="1",
        docs_url=None,  # FastAPI's pages load scripts from other sites
        redoc_url=None,
    )
    app.state.here = served
    app.add_exception_handler(UnicodeEncodeError, _no_text)
    app.add_exception_handler(RequestValidationError, _invalid)
    for router in (api, mailpit.v1, mailpit.plain, rest):
        app.include_router(router)
    return Guard(app, names)


async def _no_text(_request: Request, error: Exception) -> Response:
    """Refuse text with a lone surrogate (escaped in JSON): neither SQLite nor UTF-8 can represent surrogates."""
    return PlainTextResponse(f"Unicode text is needed: {error}\n", 400)


async def _invalid(_request: Request, error: Exception) -> Response:
    """List the invalid fields and reasons, without their values: JSON cannot hold NaN."""
    errors = cast("RequestValidationError", error).errors()
    return JSONResponse({"detail": [{name: one[name] for name in ("type", "loc", "msg")} for one in errors]}, 422)


def _is_address(host: str) -> bool:
    """Return whether a host is an address, not a name; DNS rebinding needs a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses bodies that are too large, and requests with another Host (DNS rebinding) or Origin (CSRF)."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = self._refuse(scope["method"], headers)
        if reason is not None:
            await PlainTextResponse(reason + "\n", 403)(scope, receive, send)
            return
        if int(headers.get(b"content-length", "0")) > MOST_BODY:
            await PlainTextResponse(_TOO_LARGE + "\n", 413, {"Connection": "close"})(scope, receive, send)
            return
        size = 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})
            return message

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive_some, send_more)

    def _refuse(self, method: str, headers: dict[bytes, str]) -> str | None:
        host = headers.get(b"host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets without an address
            name = ""
        if name not in self._names and not _is_address(name):
            return f"Host {host[:100]!r} is neither an address nor one of {', '.join(sorted(self._names))}"
        origin = headers.get(b"origin")
        if origin is not None and origin != f"http://{host}" and (method not in _SAFE or origin != "null"):
            return f"Origin {origin[:100]!r} is not http://{host}"
        if headers.get(b"sec-fetch-site") in {"cross-site", "same-site"} and method not in _SAFE:
            return "the request comes from a page of another site"
        return None


@rest.get("/metrics", response_class=PlainTextResponse)
async def metrics(here: Here) -> str:
    """Return figures in Prometheus' text format."""
    books, spool = here.inbox.books, here.spool
    figures = {
        "inbox_messages": ("gauge", "messages kept", spool.count),
        "inbox_bytes": ("gauge", "octets of the messages kept", spool.size),
        "inbox_connections": ("gauge", "SMTP connections open", books.open),
        "inbox_connections_total": ("counter", "SMTP connections accepted", books.accepted),
        "inbox_broken_total": ("counter", "SMTP connections that a rule ended", books.broken),
        "inbox_events_total": ("counter", "events recorded", spool.events.cursor),
    }
    lines = [f"# HELP {n} {text}\n# TYPE {n} {kind}\n{n} {value}\n" for n, (kind, text, value) in figures.items()]
    hits = [f'inbox_rule_hits_total{{rule="{kept.id}"}} {kept.hits}\n' for kept in here.inbox.rules.in_force]
    kind = "# HELP inbox_rule_hits_total applications of a rule\n# TYPE inbox_rule_hits_total counter\n"
    return "".join([*lines, kind, *hits])


@rest.get("/", include_in_schema=False)
@rest.get("/page/{name}", include_in_schema=False)
async def page(name: str = "page.html") -> Response:
    """Return a file of the web page."""
    file = resources.files("orchestrator.agents.inbox") / "page" / name
    media = _MEDIA.get(name.rpartition(".")[2])
    if "/" in name or media is None or not file.is_file():
        return PlainTextResponse("no such file\n", 404)
    return Response(file.read_bytes(), media_type=media, headers={"Content-Security-Policy": _PAGE_POLICY})
