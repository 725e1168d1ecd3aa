"""Texts as strings: their sentences."""

from __future__ import annotations

import re


def sentences(text: str) -> list[str]:
    """The sentences and headings of a text, in order."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part.strip()]
