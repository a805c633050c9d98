"""Tables: written as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.files import atomic_write

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{each: f"\\{each}" for each in "&%$#_"},
}


@dataclass
class Table:
    """`head`: the name of each column and the line below it, "" for none. `rows`: cells as text, "-" for a missing number.

    Rows from index `first_own_row` on are our own results. `records`: the rows as numbers for the CSV file, one dict each.
    `values`: only for tables that can be sorted: the unrounded numbers of each row, None for "-", without text columns.
    """

    name: str  # stem of the file names
    title: str
    head: list[tuple[str, str]]
    rows: list[list[str]]
    first_own_row: int
    records: Sequence[Mapping[str, object]]
    text_columns: int = 1
    notes: list[str] = field(default_factory=list)
    values: Sequence[Sequence[float | None]] = field(default_factory=list)


def write_table(table: Table, folder: Path) -> list[Path]:
    """Writes `folder`/NAME.md, NAME.csv and NAME.tex and returns the three paths."""
    written = []
    for suffix, content in ((".md", to_markdown(table)), (".csv", to_csv(table)), (".tex", to_latex(table))):
        written.append(folder / f"{table.name}{suffix}")
        with atomic_write(written[-1]) as temporary:
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace", newline="")
    return written


def to_markdown(table: Table) -> str:
    """Title, table and notes; the name of our own rows is bold."""
    head = [" ".join(filter(None, each)) for each in table.head]
    lines = [head, ["---"] * table.text_columns + ["---:"] * (len(head) - table.text_columns)]
    for number, row in enumerate(table.rows):
        cells = [cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row]
        if number >= table.first_own_row:
            last = table.text_columns - 1
            cells[last] = f"**{cells[last]}**"
        lines.append(cells)
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "".join(f"\n- {note}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n" + (f"{notes}\n" if notes else "")


def to_csv(table: Table) -> str:
    """One line per record, with missing numbers left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A `table` environment that needs \\usepackage{booktabs}. The notes are comments above it."""
    columns = "l" * table.text_columns + "c" * (len(table.head) - table.text_columns)
    lines = [f"% {' '.join(note.split())}" for note in table.notes]
    lines += [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.title.partition('. ')[2] or table.title)}}}",
    ]
    lines += [rf"\label{{tab:{table.name}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [_latex_row(list(line)) for line in zip(*table.head, strict=True) if any(line)]
    lines.append(r"\midrule")
    for number, row in enumerate(table.rows):
        if number == table.first_own_row and number:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escapes the ten special characters of LaTeX and makes the x of x2 and 77x77 a multiplication sign."""
    text = "".join(LATEX.get(character, character) for character in text)
    text = re.sub(r"(?<!\w)x([234])(?!\w)", r"$\\times\1$", text)
    return re.sub(r"(?<=\d)x(?=\d)", r"$\\times$", text)


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_latex_cell(cell) for cell in cells) + r" \\"


def _latex_cell(cell: str) -> str:
    if cell == "-":
        return "--"
    if re.fullmatch(r"[+-]\d+\.\d+", cell):
        return f"${cell}$"
    cell = re.sub(r"/-$", "/--", escape(cell))
    return re.sub(r"\(([+-]\d+\.\d+)\)$", r"($\1$)", cell)
