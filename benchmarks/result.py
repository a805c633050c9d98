"""What a benchmark measured, as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from common.files import whole_file


def write_result(path: Path, content: dict) -> None:
    """Writes it whole or not at all, and says where."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}")
