"""Amounts as a person would write them: memory and file sizes, a time to wait, a number of things."""

from __future__ import annotations


def format_bytes(number: float) -> str:
    """A number of bytes to three digits: "512 B", "82.9 KB", "5.68 GB"."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        value = number / size
        if value >= 0.9995:  # as 999.5 would be rounded to a fourth digit
            return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{number:.0f} B"


def format_duration(seconds: float) -> str:
    """The two largest units of a time, rounded: "45 s", "10 min", "2 h 10 min" or "3 d 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{hours // 24} d {hours % 24} h"


def format_count(number: int, noun: str) -> str:
    """A number of things: "1 image", "1,500 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
