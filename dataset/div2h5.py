"""So that the paper's `cd dataset && python div2h5.py` works: the command in the folder above, for DIV2K in this folder."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[0] = str(here.parent)

from common.errors import run_cli  # noqa: E402
from div2h5 import main  # noqa: E402

run_cli(lambda: main(here))
