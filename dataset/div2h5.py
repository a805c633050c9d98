"""So that the paper's `cd dataset && python div2h5.py` works: the same command as the one in the folder above."""

import runpy
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path[0] = str(root)
runpy.run_path(str(root / "div2h5.py"), run_name="__main__")
