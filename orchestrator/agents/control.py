"""Client for the agent of this container, over its Unix socket.

::

    python3 -m orchestrator.agents.control begin RUN              open the ledger of a run, before its first message
    python3 -m orchestrator.agents.control count RUN              counters of the run: a SinkTick
    python3 -m orchestrator.agents.control expect RUN COUNT       as begin; the sink prints {"complete": RUN} at COUNT
    python3 -m orchestrator.agents.control report RUN             the whole account: a SinkReport

A DNS gate has other requests: ``rules``, ``add RULES`` (returns the new rules with their ids), ``remove ID`` (returns
the hits of the rule; ``null``: no such rule), ``clear`` and ``queries AFTER``. The client prints one JSON value. Exit
code 1: the agent refused or cannot be reached; 2: unknown request. Imports are few: each request is a new process.
"""

import json
import socket
import sys
from typing import Any

from orchestrator.agents.output import complain, say

SOCKET = "/run/testbed-sink.sock"
_SINK = {"begin": 1, "count": 1, "expect": 2, "report": 1}
_GATE = {"rules": 0, "add": 1, "remove": 1, "clear": 0, "queries": 1}
_WORDS = _SINK | _GATE
"""Request -> number of its arguments."""
_TIMEOUT_S = 30.0


def ask(path: str, words: list[str]) -> Any:
    """Send one request to the agent and return its answer.

    Raises:
        ValueError: the agent refused the request; the text is its reason.
        OSError: the agent cannot be reached.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sink:
        sink.settimeout(_TIMEOUT_S)
        sink.connect(path)
        sink.sendall(json.dumps(words).encode() + b"\n")
        pieces = []
        while piece := sink.recv(1 << 20):
            pieces.append(piece)
    answer = json.loads(b"".join(pieces))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["ok"]


def main(words: list[str]) -> int:
    """Send one request to the default socket, or to another one if the words begin with ``--socket PATH``."""
    path = SOCKET
    if words[:1] == ["--socket"] and len(words) > 1:
        path, words = words[1], words[2:]
    if not words or _WORDS.get(words[0]) != len(words) - 1:
        complain(__doc__ or "")
        return 2
    try:
        say(ask(path, words))
    except ValueError as error:
        complain(f"{words[0]!r} is refused: {error}")
        return 1
    except OSError as error:
        complain(f"needed an agent at {path}; found {error.strerror or error}; is it running here?")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
