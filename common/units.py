"""Amounts in words: a time to wait."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """The two largest units of a time, rounded: "45 s", "10 min", "2 h 10 min" or "3 d 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{hours // 24} d {hours % 24} h"
