"""Draws `docs/network.svg`: the network of Figures 1 and 2 in a layout of our own, each box named as its class.

Command line: `python docs/draw_network.py [--out FILE]`. The numbers of blocks, layers and channels are read off
`model/cfsrcnn.py`. The image brings its own background, light or dark as the reader's system has it.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a file, from any folder

from torch import nn

from common.cli import CliParser
from common.errors import run_cli
from common.files import atomic_write
from model.cfsrcnn import CFSRCNN, CHANNELS, FEBS

# pixels of the image
WIDTH, HEIGHT = 1190, 556
TOP, LOW, BOX = 104, 344, 104  # where the boxes of the upper and of the lower row begin, and how high a box is
MIDDLE, LOW_MIDDLE = TOP + BOX // 2, LOW + BOX // 2
SKIP = {1: 58, 0: 76}  # heights of the lines from an FEU to the next concat: odd blocks, even blocks
SUM, FIRST = 264, 294  # heights of the line that adds up the FEU outputs and of that from FEB 1 to the CB

STYLE = """
text { font: 14px "DejaVu Sans", Verdana, Helvetica, Arial, sans-serif; text-anchor: middle; fill: #14181d }
.start { text-anchor: start } .end { text-anchor: end }
.head { font-weight: bold }
.ink { fill: #1c2128 }
.paper { fill: #ffffff; stroke: #d0d7de }
.frame { fill: none; stroke: #818b98; stroke-dasharray: 6 4 }
.feb { fill: #e9f5da; stroke: #7fa650 }
.box { stroke: #14181d; stroke-width: 0.8 }
.feu { fill: #b5dcf5 } .cu { fill: #c3cc86 } .relu { fill: #eda96f } .concat { fill: #f28d8d }
.up { fill: #c9b6e4 } .conv { fill: #f5e063 } .mean { fill: #d3d9e0 } .plus { fill: #ffffff }
.line { fill: none; stroke-width: 1.6 } .gap { stroke-dasharray: 3 5 }
.flow { stroke: #1c2128 } .skip { stroke: #b3261e } .sum { stroke: #0b5cad } .first { stroke: #7434ad }
.flow-ink { fill: #1c2128 } .skip-ink { fill: #b3261e } .sum-ink { fill: #0b5cad } .first-ink { fill: #7434ad }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; stroke: #30363d }
  .frame { stroke: #768390 }
  .feb { fill: #1d2b17; stroke: #6f9a43 }
  .ink { fill: #e6edf3 }
  .flow { stroke: #e6edf3 } .skip { stroke: #ff8a80 } .sum { stroke: #6cb6ff } .first { stroke: #cda4ff }
  .flow-ink { fill: #e6edf3 } .skip-ink { fill: #ff8a80 } .sum-ink { fill: #6cb6ff } .first-ink { fill: #cda4ff }
}
"""
Point = tuple[float, float]


class Drawing:
    """SVG elements, one after the other. A box's `kind` and a line's are classes of `STYLE`."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def rect(self, kind: str, x: float, y: float, width: float, height: float, radius: float = 3) -> None:
        """A rectangle with its upper left corner at (`x`, `y`)."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )

    def text(self, kind: str, text: str, x: float, y: float, turned: bool = False) -> None:
        """Text centered on the height `y`; `turned`: written upwards."""
        turn = f' transform="rotate(-90 {x:g} {y:g})"' if turned else ""
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y + 5:g}"{turn}>{text}</text>')

    def box(self, kind: str, name: str, x: float, y: float, width: float, height: float = BOX) -> None:
        """A layer with its name."""
        self.rect(f"box {kind}", x, y, width, height)
        self.text("", name, x + width / 2, y + height / 2, turned=height > width)

    def plus(self, x: float, y: float) -> None:
        """A sum, the figures' ⊕, around (`x`, `y`)."""
        self.parts.append(f'<circle class="box plus" cx="{x:g}" cy="{y:g}" r="10"/>')
        self.parts.append(f'<path class="box" d="M{x - 6:g} {y:g}h12M{x:g} {y - 6:g}v12"/>')

    def line(self, kind: str, *points: Point, hops: tuple[float, ...] = (), tip: bool = True) -> None:
        """A line through `points` from left to right, with an arrowhead; it hops over the lines that cross it at `hops`."""
        path = "M{:g} {:g}".format(*points[0])
        for (x0, y0), (x1, y1) in pairwise(points):
            for hop in hops:
                path += f"H{hop - 5:g}a5 5 0 0 1 10 0" if y0 == y1 and x0 < hop < x1 else ""
            path += f"L{x1:g} {y1:g}"
        self.parts.append(f'<path class="line {kind}" d="{path}"/>')
        if tip:
            (x0, y0), (x, y) = points[-2:]
            dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
            sides = [(x - 8 * dx + side * dy, y - 8 * dy + side * dx) for side in (4, -4)]
            corners = " ".join(f"{a:g},{b:g}" for a, b in [(x, y), *sides])
            self.parts.append(f'<polygon class="{kind}-ink" points="{corners}"/>')

    def svg(self, title: str) -> str:
        """The whole drawing as SVG text; `title` is read aloud in place of it."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-labelledby="title">\n<title id="title">{title}</title>\n<style>{STYLE}</style>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def draw_network() -> str:
    """The network as SVG text."""
    net, x4_net = CFSRCNN(2), CFSRCNN(4)
    drawing = Drawing()
    drawing.rect("paper", 0.5, 0.5, WIDTH - 1, HEIGHT - 1, 10)
    draw_febs(drawing, net)
    draw_eb(drawing, net)
    draw_cb(drawing, net, x4_net)
    draw_frb(drawing, net)
    draw_legend(drawing)
    return drawing.svg(f"CFSRCNN: {FEBS} stacked FEBs, EB, CB and FRB, {layers(net)} layers in all")


def layers(module: nn.Module) -> int:
    """The number of trained convolutions."""
    return sum(weight.dim() == 4 and weight.requires_grad for weight in module.parameters())


def draw_febs(drawing: Drawing, net: CFSRCNN) -> None:
    """The upper row: LR, MeanShift, FEB 1, 2, 3, ..., 16, 17; above it the lines to the concats, below it the sum."""
    drawing.rect("frame", 84, 16, 1052, 226, 8)
    drawing.text("ink head start", f"stacked FEBs: {FEBS} blocks, {layers(net.febs)} layers", 98, 35)
    drawing.text("skip-ink end", "each FEU's output also goes into the next block's concat", 1122, 35)
    drawing.text("ink head", "LR", 20, MIDDLE - 15)
    drawing.line("flow", (6, MIDDLE), (38, MIDDLE))
    drawing.box("mean", "MeanShift", 38, TOP, 26)
    x, gap = 104.0, 0.0
    ends = [64.0]  # where the arrow to the next block begins
    out: dict[int, float] = {}  # of block k: the x where its FEU's output leaves it
    concat: dict[int, float] = {}  # and the x of its concat
    for k in (1, 2, 3, FEBS - 1, FEBS):
        right, out[k], concat[k] = draw_feb(drawing, k, x)
        drawing.line("flow", (ends[-1], MIDDLE), (x + 10, MIDDLE))
        ends.append(right - 10)
        x = right + 30
        if k == 3:  # the blocks that are not drawn
            gap, x = right + 48, right + 96
            drawing.text("ink head", "· · ·", gap, MIDDLE - 1)
            drawing.line("flow", (right - 10, MIDDLE), (gap - 24, MIDDLE))
            ends.append(gap + 24)
    drawing.line("flow", (ends[-1], MIDDLE), (1160, MIDDLE), (1160, LOW_MIDDLE), (1128, LOW_MIDDLE))

    for k in (1, 2, 3, FEBS - 2, FEBS - 1):  # lines of neighboring blocks cross once: that of the even block hops
        y = SKIP[k % 2]
        start = [(out[k], TOP), (out[k], y)] if k in out else [(gap + 22, y)]
        end = [(concat[k + 1], y), (concat[k + 1], TOP)] if k + 1 in concat else [(gap - 22, y)]
        crossed = [concat[k]] + ([out[k + 1]] if k + 1 != FEBS else []) if k % 2 == 0 else []
        drawing.line("skip", *start, *end, hops=tuple(crossed), tip=k + 1 in concat)

    drawing.line("sum", (out[1], TOP + BOX), (out[1], SUM), (gap - 40, SUM), tip=False)
    drawing.line("sum gap", (gap - 40, SUM), (gap + 40, SUM), tip=False)
    drawing.line("sum", (gap + 40, SUM), (1070, SUM), (1070, LOW_MIDDLE - 10))
    for k in (2, 3, FEBS - 1, FEBS):
        drawing.line("sum", (out[k], TOP + BOX), (out[k], SUM - 10))
        drawing.plus(out[k], SUM)
    drawing.text("sum-ink", f"sum of all {FEBS} FEU outputs", gap - 30, SUM + 17)
    drawing.parts.append(f'<circle class="first-ink" cx="{out[1]:g}" cy="{SUM}" r="4"/>')
    drawing.line("first", (out[1], SUM), (out[1], FIRST), (623, FIRST), (623, LOW))
    drawing.text("first-ink start", "FEB 1: the FEU's output after its ReLU", out[1] + 14, FIRST - 12)


def draw_feb(drawing: Drawing, k: int, x: float) -> tuple[float, float, float]:
    """FEB k from `x` on. Returns its right side and the x where its FEU's output leaves and where its concat stands."""
    width = 132 if k == 1 else 126 if k == FEBS else 180
    drawing.rect("feb", x, TOP - 10, width, BOX + 36, 5)
    drawing.text("ink head end", f"FEB {k}", x + width - 10, TOP + BOX + 13)
    drawing.box("feu", "FEU", x + 10, TOP, 34)
    if k == 1:
        drawing.box("relu", "ReLU", x + 44, TOP, 24)
        concat, relu, out = 0.0, x + 44, x + 56
    else:
        drawing.line("flow", (x + 44, MIDDLE), (x + 66, MIDDLE))
        drawing.box("concat", "concat", x + 66, TOP, 26)
        drawing.box("relu", "ReLU", x + 92, TOP, 24)
        concat, relu, out = x + 79, x + 92, x + 27
    if k != FEBS:
        drawing.line("flow", (relu + 24, MIDDLE), (relu + 44, MIDDLE))
        drawing.box("cu", "CU", relu + 44, TOP, 34)
    return x + width, out, concat


def draw_eb(drawing: Drawing, net: CFSRCNN) -> None:
    """The lower row from the right: FEU, sum, ReLU, five FEUs with ReLU."""
    drawing.rect("frame", 704, LOW - 22, 432, BOX + 56, 8)
    drawing.text("ink head", f"EB: {layers(net.eb)} layers", 920, LOW + BOX + 18)
    drawing.box("feu", "FEU", 1100, LOW, 28)
    drawing.line("flow", (1100, LOW_MIDDLE), (1080, LOW_MIDDLE))
    drawing.plus(1070, LOW_MIDDLE)
    drawing.line("flow", (1060, LOW_MIDDLE), (1042, LOW_MIDDLE))
    drawing.box("relu", "ReLU", 1022, LOW, 20)
    draw_feus(drawing, len(net.eb.feus) - 1, 1022, 1009)


def draw_cb(drawing: Drawing, net: CFSRCNN, x4_net: CFSRCNN) -> None:
    """The upsampler, drawn twice as in the figures, on FEB 1 (above) and on the EB (below); sum, ReLU."""
    drawing.rect("frame", 478, LOW - 22, 216, BOX + 56, 8)
    drawing.text("ink head", f"CB: {layers(net.cb)} layer (x4: {layers(x4_net.cb)})", 586, LOW + BOX + 18)
    drawing.line("flow", (717, LOW_MIDDLE), (699, LOW_MIDDLE), (699, LOW + 84), (681, LOW + 84))
    drawing.box("up", "UpsampleBlock", 565, LOW, 116, 40)
    drawing.box("up", "UpsampleBlock", 565, LOW + 64, 116, 40)
    drawing.text("ink", "one layer", 623, LOW_MIDDLE)
    drawing.line("flow", (565, LOW + 20), (540, LOW + 20), (540, LOW_MIDDLE - 10))
    drawing.line("flow", (565, LOW + 84), (540, LOW + 84), (540, LOW_MIDDLE + 10))
    drawing.plus(540, LOW_MIDDLE)
    drawing.line("flow", (530, LOW_MIDDLE), (512, LOW_MIDDLE))
    drawing.box("relu", "ReLU", 492, LOW, 20)


def draw_frb(drawing: Drawing, net: CFSRCNN) -> None:
    """Five FEUs with ReLU, the last convolution, MeanShift, SR."""
    drawing.rect("frame", 110, LOW - 22, 358, BOX + 56, 8)
    drawing.text("ink head", f"FRB: {layers(net.frb)} layers, at the SR size", 289, LOW + BOX + 18)
    left = draw_feus(drawing, len(net.frb.feus), 492, 458)
    drawing.line("flow", (left, LOW_MIDDLE), (left - 13, LOW_MIDDLE))
    drawing.box("conv", "conv", left - 41, LOW, 28)
    drawing.line("flow", (left - 41, LOW_MIDDLE), (88, LOW_MIDDLE))
    drawing.box("mean", "MeanShift", 62, LOW, 26)
    drawing.line("flow", (62, LOW_MIDDLE), (30, LOW_MIDDLE))
    drawing.text("ink head", "SR", 44, LOW_MIDDLE - 15)


def draw_feus(drawing: Drawing, count: int, start: float, x: float) -> float:
    """`count` FEUs with their ReLU to the left of `x`, the first arrow from `start`; returns the left side of the last."""
    for _ in range(count):
        drawing.line("flow", (start, LOW_MIDDLE), (x, LOW_MIDDLE))
        drawing.box("feu", "FEU", x - 28, LOW, 28)
        drawing.box("relu", "ReLU", x - 48, LOW, 20)
        start, x = x - 48, x - 61
    return start


def draw_legend(drawing: Drawing) -> None:
    """The kinds of boxes, in one row below."""
    entries = [
        ("feu", "FEU: 3x3 conv", 140),
        ("cu", "CU: 1x1 conv, ReLU", 180),
        ("concat", f"concat: {CHANNELS} + {CHANNELS}", 153),
        ("up", "UpsampleBlock: conv, PixelShuffle", 281),
        ("conv", "3x3 conv to RGB", 160),
        ("mean", "MeanShift: RGB mean, frozen", 0),
    ]
    x = 24
    for kind, text, step in entries:
        drawing.rect(f"box {kind}", x, HEIGHT - 37, 18, 18)
        drawing.text("ink start", text, x + 25, HEIGHT - 28)
        x += step


def main() -> None:
    parser = CliParser(prog="python docs/draw_network.py", description="Draw the network as SVG.")
    parser.add_argument("--out", type=Path, default=Path("docs/network.svg"), help="the file to write")
    args = parser.parse_args()
    with atomic_write(args.out) as temporary:
        temporary.write_text(draw_network(), encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
