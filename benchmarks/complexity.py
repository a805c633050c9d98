"""Complexity of the network: parameters, MACs and activations beside the paper's Table X.

The counting is in `evaluation/complexity.py`. Command line: `python -m benchmarks.complexity --out complexity.json`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.json_output import write_json
from common.cli import CliParser
from common.errors import run_cli
from common.tables import to_markdown
from evaluation.complexity import count_all, scale_table


def main() -> None:
    parser = CliParser(prog="python -m benchmarks.complexity", description="Count parameters, MACs and activations.")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    counted = count_all()
    print(to_markdown(scale_table(counted)))
    paper = counted["paper_x2"]
    print(f"Table X of the paper, x2: {paper['parameters_k']}K parameters, {paper['flops_g']}G")
    for line in counted["about_the_paper"]:
        print(f"- {line}")
    if args.out:
        write_json(args.out, counted)


if __name__ == "__main__":
    run_cli(main)
