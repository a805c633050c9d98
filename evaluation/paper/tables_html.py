"""The paper's tables as one HTML page that opens from disk: contents, sortable tables with notes, our rows highlighted.

The layout is in `tables_template.html`, parts shared with other pages in `evaluation/page.py`. `Backticks` become code.
"""

from __future__ import annotations

import re
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template

from common.files import atomic_write
from common.tables import Table
from evaluation.page import html_number, number_cell, shared_fields

TEMPLATE = Path(__file__).with_name("tables_template.html")


def write_page(path: Path, title: str, header: list[str], tables: list[Table]) -> None:
    """Writes all tables to `path`. `header`: a sentence on how they were made, then an item for each thing measured."""
    first, *items = map(to_text, header)
    fields = shared_fields(title) | {
        "header": f"<p>{first}</p>" + _list(items, "about"),
        "contents": "\n".join(map(_entry, tables)),
        "tables": "\n\n".join(map(to_html, tables)),
    }
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def to_html(table: Table) -> str:
    """A section with title, table and notes. With `table.values`, each column has a button to sort by it."""
    label = f'aria-labelledby="{table.name}"'
    rows = [_row(table, number) for number in range(len(table.rows))]
    return "\n".join(
        [
            f'<section>\n<h2 id="{table.name}">{escape(table.title)}</h2>',
            f'<div class="frame" tabindex="0" role="region" {label}>\n<table {label}>',
            f"<thead>\n<tr>{_head(table)}</tr>\n</thead>",
            "<tbody>",
            *rows,
            f"</tbody>\n</table>\n</div>\n{_list(list(map(to_text, table.notes)), 'notes')}</section>",
        ]
    )


def to_text(line: str) -> str:
    """A line of prose as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(line))


def _entry(table: Table) -> str:
    numbers = [cell for row in table.rows[table.first_own_row :] for cell in row[table.text_columns :]]
    missing = " <span>(nothing of ours yet)</span>" if numbers and set(numbers) == {"-"} else ""
    return f'<li><a href="#{table.name}">{escape(table.title)}</a>{missing}</li>'


def _head(table: Table) -> str:
    """The cells of the head: one for the text columns, then one per number."""
    names = ", ".join(name for name, _ in table.head[_first_text(table) : table.text_columns])
    numbers = zip(table.head[table.text_columns :], _begins_group(table), strict=True)
    cells = [_head_cell(name, unit, "column" * begins, bool(table.values)) for (name, unit), begins in numbers]
    return _head_cell(names, "", "corner", bool(table.values)) + "".join(cells)


def _head_cell(name: str, unit: str, kind: str, sorts: bool) -> str:
    inner, sort = escape(name) + (f"<br><small>{escape(unit)}</small>" if unit else ""), ""
    if sorts:
        spoken = escape(f"{name} {unit}".strip())
        inner, sort = f'<button type="button" aria-label="{spoken}">{inner}</button>', ' aria-sort="none"'
    return f'<th scope="col" class="{kind}"{sort}>{inner}</th>'


def _row(table: Table, number: int) -> str:
    row, first = table.rows[number], table.text_columns
    values = table.values[number] if table.values else [None] * (len(row) - first)
    numbers = zip(row[first:], values, _begins_group(table), strict=True)
    cells = [
        number_cell(html_number(cell), value, " ".join(["column"] * begins + ["none"] * (cell == "-")))
        for cell, value, begins in numbers
    ]
    ours = ' class="ours"' if number >= table.first_own_row else ""
    name = escape(" ".join(row[_first_text(table) : first]))
    return f'<tr{ours}><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _first_text(table: Table) -> int:
    """The first text column shown: in a table that can be sorted only the name, since the title has what is left of it."""
    return table.text_columns - 1 if table.values else 0


def _begins_group(table: Table) -> list[bool]:
    """For each column of numbers, whether it starts a new group, with neither name nor unit of the previous column."""
    columns = table.head[table.text_columns :]
    return [True, *(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(columns))]


def _list(items: list[str], kind: str) -> str:
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f'<ul class="{kind}">\n{lines}</ul>\n' if lines else ""
