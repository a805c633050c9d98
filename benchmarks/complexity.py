"""What the network costs by counting: parameters, multiply-adds, activations, beside the paper's Table X.

The counting is in `evaluation/complexity.py`. Command line: `python -m benchmarks.complexity --out complexity.json`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.result import write_result
from common.errors import run_command
from common.flags import Flags
from evaluation.complexity import count_all, scale_table
from evaluation.tables import to_markdown


def main() -> None:
    parser = Flags(
        prog="python -m benchmarks.complexity", description="Count parameters, multiply-adds and activations."
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    counted = count_all()
    print(to_markdown(scale_table(counted)))
    paper = counted["paper_x2"]
    print(f"Table X of the paper, x2: {paper['parameters_k']}K parameters, {paper['flops_g']}G")
    for line in counted["about_the_paper"]:
        print(f"- {line}")
    if args.out:
        write_result(args.out, counted)


if __name__ == "__main__":
    run_command(main)
