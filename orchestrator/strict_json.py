"""JSON as in RFC 8259: refuses NaN, infinities, and numbers too large for a float."""

import json
import math
import sys
from typing import Any, NoReturn


def dumps(data: Any, **options: Any) -> str:
    """Write JSON; ``options``: those of json.dumps.

    Raises:
        ValueError: a number in ``data`` is not finite.
    """
    return json.dumps(data, **options, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        json.JSONDecodeError: the text is not JSON, or a number in it is not finite.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _refuse(word)


def _whole(word: str) -> int:
    return int(word) if len(word) <= sys.float_info.max_10_exp else _refuse(word)


def _refuse(word: str) -> NoReturn:
    raise json.JSONDecodeError(f"{word[:40]} is not a finite number", word, 0)
