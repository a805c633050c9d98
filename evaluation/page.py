"""Shared parts of the HTML pages: head and style (`page_head.html`), sortable tables (`page.js`), number formatting.

A page is a `string.Template` that begins with $head and has $sorting in its script.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

HEAD = Path(__file__).with_name("page_head.html")
SORTING = Path(__file__).with_name("page.js")


def shared_fields(title: str) -> dict[str, str]:
    """The placeholders of every page: `title` as HTML, `head` without the page's own style, `sorting` as JavaScript."""
    title = escape(title)
    head = Template(HEAD.read_text(encoding="utf-8")).substitute(title=title)
    return {"title": title, "head": head.strip(), "sorting": SORTING.read_text(encoding="utf-8").strip()}


def html_number(number: str) -> str:
    """A formatted number as HTML: a true minus sign, an infinity sign, a dash for a missing number."""
    number = re.sub(r"-(?=\d|inf)", "&minus;", escape(number))
    return number.replace("inf", "&infin;").replace("-", "&ndash;")


def number_cell(shown: str, value: float | None, kind: str = "") -> str:
    """A table cell. `shown`: its HTML; `value`: the number to sort by, if any; `kind`: its CSS class."""
    sort = "" if value is None else f' data-value="{str(value).replace("inf", "Infinity")}"'  # as JavaScript spells it
    kind = f' class="{kind}"' if kind else ""
    return f"<td{sort}{kind}>{shown}</td>"
