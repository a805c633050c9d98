"""Upscaling with a network: tiles, self-ensemble, precision, runtimes; on image files, and from Python: `inference.load`."""

from inference.api import SRModel, load

__all__ = ["SRModel", "load"]
