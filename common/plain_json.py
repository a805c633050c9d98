"""Reading JSON that may be anything: what cannot be read raises one kind of error, however it is broken."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads` of text in UTF-8; `ValueError` for all that is no JSON, bytes that are no text and endless nesting too."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
