"""So that the paper's `cd dataset && python div2h5.py` works: the command in the folder above, for DIV2K in this folder."""

import runpy
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[0] = str(here.parent)
command = runpy.run_path(str(here.parent / "div2h5.py"))
command["run_cli"](lambda: command["main"](here))
