"""The memory of a training step on a GPU: how much the forward pass keeps, and what to do when it does not fit."""

from __future__ import annotations
