"""Bodies of requests in Mailpit's HTTP API v1, with its names."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Words(BaseModel):
    """Base of bodies: Mailpit's clients may send more than is read here."""

    model_config = ConfigDict(extra="ignore")


class Ids(Words):
    """Ids of messages; none: all."""

    IDs: list[str] = []


class Reading(Ids):
    """Which messages were read."""

    Read: bool = False
    Search: str = ""


class Tagging(Ids):
    """Tags to set."""

    Tags: list[str] = []


class Renaming(Words):
    """New name of a tag."""

    Name: Annotated[str, Field(min_length=1)]


class Address(Words):
    """A mailbox."""

    Email: str
    Name: str = ""


class Attachment(Words):
    """A file, base64."""

    Content: str
    Filename: str
    ContentType: str = ""
    """Empty: by the file's name."""
    ContentID: str = ""


class Send(Words):
    """A message to put into the inbox."""

    From: Address
    To: list[Address] = []
    Cc: list[Address] = []
    Bcc: list[str] = []
    ReplyTo: list[Address] = []
    Subject: str = ""
    Text: str = ""
    HTML: str = ""
    Headers: dict[str, str] = {}
    Tags: list[str] = []
    Attachments: list[Attachment] = []


class Trigger(Words):
    """A random failure."""

    ErrorCode: Annotated[int, Field(ge=400, le=599)] = 451
    Probability: Annotated[int, Field(ge=0, le=100)] = 0


class Chaos(Words):
    """Random failures, by command."""

    Sender: Trigger = Trigger()
    Recipient: Trigger = Trigger()
    Authentication: Trigger = Trigger()
