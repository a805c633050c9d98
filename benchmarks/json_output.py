"""Writes the results of a benchmark as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from common.files import atomic_write


def write_json(path: Path, content: dict) -> None:
    """Writes `content` atomically and prints the path."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}")
