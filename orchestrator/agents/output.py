"""Output of an agent: JSON lines for the orchestrator, plain sentences for errors."""

import json
import sys
from collections.abc import Mapping


def say(line: Mapping[str, object] | list[object]) -> None:
    """Print one JSON line on standard output, at once."""
    sys.stdout.write(json.dumps(line, allow_nan=False) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(text.strip() + "\n")
