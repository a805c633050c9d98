"""The paper's tables as one HTML page: complete in itself, safe from names, numbers unrounded, sorted in a browser."""

from __future__ import annotations

import re
from html import unescape

import pytest
from conftest import open_page

from common.errors import FailureLog
from evaluation.cache import MeanScores
from evaluation.page import HEAD, html_number
from evaluation.paper import paper_results
from evaluation.paper.discovery import SETS
from evaluation.paper.paper_tables import MeasuredRow, overview_table, quality_table, runtime_table
from evaluation.paper.tables_html import TEMPLATE, write_page

NASTY = "</title><script>alert(1)</script>"
SET5 = SETS[0]
PSNR = 37.123456789


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Table IV with a row of each kind, one of them nasty, the overview, and Table IX without a row of ours."""
    rows = [
        MeasuredRow("Bicubic", "Bicubic", {("Set5", 2): MeanScores(33.64, 0.9292, 5, 0.0)}),
        MeasuredRow("CFSRCNN", "CFSRCNN", {("Set5", 2): MeanScores(PSNR, 0.95, 5, 0.0)}),
        MeasuredRow("CFSRCNN (a)", "CFSRCNN", {("Set5", 2): MeanScores(PSNR + 1e-5, 0.95, 5, 0.0)}),
        MeasuredRow(NASTY, None, {("Set5", 2): MeanScores(float("inf"), 1.0, 5, 0.0)}),
    ]
    folder = tmp_path_factory.mktemp("page")
    tables = [
        overview_table(rows[1:]),
        quality_table(SET5, rows, [SET5.download_hint(folder / "<b>")]),
        runtime_table(folder / "none.json", FailureLog()),
    ]
    write_page(folder / "report.html", f"Ours & {NASTY}", [f"By `{NASTY}`.", NASTY], tables)
    return folder / "report.html"


@pytest.fixture(scope="module")
def html(file):
    return file.read_text(encoding="utf-8")


def rows_of(html: str, table: str) -> list[str]:
    """The rows of a table's body."""
    section = html[html.index(f'<h2 id="{table}"') :].partition("</section>")[0]
    return re.findall("<tr.*</tr>", section.partition("<tbody>")[2])


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere(html):
    assert "://" not in html and "@import" not in html and "url(" not in html and "default-src 'none'" in html
    links = set(re.findall(r'\b(?:src|href|srcset|action|data)\s*=\s*"([^"]*)"', html))
    assert links == {"data:,", "#overview", "#table4_set5", "#table9_runtime"}
    assert all(html.count(f'id="{link[1:]}"') == 1 for link in links if link.startswith("#"))


def test_names_are_text_and_nothing_more(html):
    allowed = re.findall(r"<(\w+)", HEAD.read_text() + TEMPLATE.read_text())
    made = {
        "section",
        "h2",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "li",
        "a",
        "span",
        "code",
        "br",
        "small",
        "button",
    }
    assert set(re.findall(r"<(\w+)", html)) <= {*allowed, *made}
    assert html.count("<script>") == 1 and html.count("alert(1)") == unescape(html).count(NASTY) > 5


def test_our_rows_are_marked_and_keep_their_unrounded_numbers(html):
    rows = rows_of(html, "table4_set5")
    assert len(rows) == len(paper_results.scores("Set5")) + 4
    assert [row.startswith('<tr class="ours">') for row in rows] == [False] * (len(rows) - 4) + [True] * 4
    assert f'<td data-value="{PSNR}" class="column">37.12/0.9500</td>' in rows[-3]
    assert f'<td data-value="{round(37.12 - 37.79, 2)}" class="column">&minus;0.67</td>' in rows[-3]
    assert '<td data-value="Infinity" class="column">&infin;/1.0000</td><td class="none">&ndash;</td>' in rows[-1]
    assert '<th scope="row">CFSRCNN (measured)</th>' in rows[-3]
    assert "37.12/0.9500 (&minus;0.67)" in rows_of(html, "overview")[0]


def test_what_is_missing_is_said(html):
    assert "Set5 is not in" in html and re.search(r"<code>python -m dataset.download Set5 --out [^<]*&lt;b&gt;", html)
    entries = re.findall(r'<li><a href="#(\w+)">.*nothing of ours yet', html)
    assert entries == ["table9_runtime"]


@pytest.mark.parametrize(
    ("number", "html"),
    [
        ("-1.25", "&minus;1.25"),
        ("37.75/-", "37.75/&ndash;"),
        ("36.51/0.9531 (-1.28)", "36.51/0.9531 (&minus;1.28)"),
        ("-inf", "&minus;&infin;"),
        ("1,200K", "1,200K"),
    ],
)
def test_numbers_read_well(number, html):
    assert html_number(number) == html


def test_in_a_browser_it_loads_silently_and_sorts_each_table_by_itself(chromium, file, html):
    def names(table: str) -> list[str]:
        found = (
            "[...document.querySelectorAll(`table[aria-labelledby=${arguments[0]}] tbody th`)].map(e => e.textContent)"
        )
        return chromium.execute_script(f"return {found}", table)

    def press(name: str) -> str:
        """Presses a column's button in Table IV and returns the order it then says it has."""
        button = chromium.find_element(
            "css selector", f"table[aria-labelledby=table4_set5] button[aria-label='{name}']"
        )
        button.click()
        return chromium.execute_script("return arguments[0].closest('th').ariaSort", button)

    chromium.get_log("browser")
    open_page(chromium, file)
    papers, runtimes = names("table4_set5"), names("table9_runtime")
    values = [re.findall(r"<td(?: data-value=\"([^\"]+)\")?", row) for row in rows_of(html, "table4_set5")]
    psnr = {name: [float(value) if value else None for value in row] for name, row in zip(papers, values, strict=True)}

    def sorted_by(column: int, sign: int) -> list[str]:
        return sorted(papers, key=lambda name: sign * psnr[name][column] if psnr[name][column] else float("inf"))

    assert press("x2 PSNR/SSIM") == "descending"
    assert names("table4_set5") == sorted_by(0, -1) and names("table4_set5")[0] == f"{NASTY} (measured)"
    at = names("table4_set5").index("CFSRCNN (a) (measured)")  # by what the printed digits no longer tell
    assert names("table4_set5")[at + 1] == "CFSRCNN (measured)"
    assert press("x3 PSNR/SSIM") == "descending" and names("table4_set5") == sorted_by(1, -1)
    assert press("x3 PSNR/SSIM") == "ascending" and names("table4_set5") == sorted_by(1, 1)
    assert psnr[names("table4_set5")[-1]][1] is None  # no number comes last either way
    assert press("x3 PSNR/SSIM") == "none" and names("table4_set5") == papers
    assert press("Model") == "ascending" and names("table4_set5")[0] == f"{NASTY} (measured)"
    assert names("table9_runtime") == runtimes
    assert chromium.execute_script("return document.querySelectorAll('[aria-labelledby=overview] button').length") == 0
    open_page(chromium, file, 390, 844, mobile=True)
    assert chromium.execute_script("return document.documentElement.scrollWidth") == 390
    frame = "document.querySelector('[aria-labelledby=table4_set5].frame')"
    assert chromium.execute_script(
        f"return {frame}.scrollWidth > {frame}.clientWidth"
    )  # wide tables scroll by themselves
    assert chromium.get_log("browser") == []
