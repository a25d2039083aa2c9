"""Models of the request bodies of Mailpit's HTTP API v1, with Mailpit's field names."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class RequestBody(BaseModel):
    """Base of request bodies. Unknown keys are ignored, and the case of keys does not matter, as in Go's decoder."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _in_any_case(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        names = {name.lower(): name for name in cls.model_fields}
        return {names.get(name.lower(), name): value for name, value in given.items()}


class Ids(RequestBody):
    """Ids of messages; an empty list selects all messages."""

    IDs: list[str] = []


class Reading(Ids):
    """Messages to mark as read or not."""

    Read: bool = False
    Search: str = ""


class Tagging(Ids):
    """Tags to set."""

    Tags: list[str] = []


class Renaming(RequestBody):
    """New name of a tag."""

    Name: Annotated[str, Field(min_length=1)]


class Address(RequestBody):
    """A mailbox."""

    Email: str
    Name: str = ""


class Attachment(RequestBody):
    """An attached file; its content is base64."""

    Content: str
    Filename: str
    ContentType: str = ""
    """Media type; if empty, the type is guessed from the file's name."""
    ContentID: str = ""


class Send(RequestBody):
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


class Trigger(RequestBody):
    """A random failure."""

    ErrorCode: Annotated[int, Field(ge=400, le=599)] = 451
    Probability: Annotated[int, Field(ge=0, le=100)] = 0


class Chaos(RequestBody):
    """Random failures, by command."""

    Sender: Trigger = Trigger()
    Recipient: Trigger = Trigger()
    Authentication: Trigger = Trigger()
