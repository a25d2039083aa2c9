"""Public Python API: a bed in the tests of a program that sends mail or depends on DNS.

::

    from orchestrator.testing import MailBed

    with MailBed() as bed:
        box = bed.mailbox()
        application.configure(smtp_host=bed.relay.host, smtp_port=bed.relay.port)
        application.sign_up(box)
        message = bed.inbox.wait_for(to=box, subject="Welcome")
        assert message.code() == "123456"

Names and semantics here are a public promise. Errors of a bed are those of ``orchestrator.errors``; those of an
expectation are AssertionErrors of ``orchestrator.testing.failure``.
"""

from orchestrator.testing.bed import MailBed
from orchestrator.testing.failure import NotArrived
from orchestrator.testing.mailbox import Mailbox
from orchestrator.testing.message import Message

__all__ = ["MailBed", "Mailbox", "Message", "NotArrived"]
