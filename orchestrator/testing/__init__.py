"""Public Python API: mail and DNS servers in containers (a bed) for the tests of a program.

::

    from orchestrator.testing import MailBed

    with MailBed() as bed:
        box = bed.mailbox()
        application.configure(smtp_host=bed.relay.host, smtp_port=bed.relay.port)
        application.sign_up(box)
        message = bed.inbox.wait_for(to=box, subject="Welcome")
        assert message.code() == "123456"

Names and semantics here are a public promise. Operations on a bed raise the errors of ``orchestrator.errors``;
expectations about mail raise the errors of ``orchestrator.testing.failure``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.testing.bed import MailBed
    from orchestrator.testing.failure import Missing, NotArrived, Unexpected, Unsettled
    from orchestrator.testing.mailbox import Mailbox
    from orchestrator.testing.message import Attachment, Link, Message
    from orchestrator.testing.plugin import mail_bed_fixture
    from orchestrator.testing.rules import Rule

_MODULES = {
    "MailBed": "bed",
    "Missing": "failure",
    "NotArrived": "failure",
    "Unexpected": "failure",
    "Unsettled": "failure",
    "Mailbox": "mailbox",
    "Attachment": "message",
    "Link": "message",
    "Message": "message",
    "Rule": "rules",
    "mail_bed_fixture": "plugin",
}

__all__ = [
    "Attachment",
    "Link",
    "MailBed",
    "Mailbox",
    "Message",
    "Missing",
    "NotArrived",
    "Rule",
    "Unexpected",
    "Unsettled",
    "mail_bed_fixture",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562), so that a conftest.py with this import loads quickly."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
