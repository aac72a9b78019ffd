"""A number with its noun, for people: 1 fact, 2 facts, 3,000 facts."""

from __future__ import annotations


def count(number: int, noun: str, plural: str | None = None) -> str:
    """The number with commas and the noun, which gets an s unless its plural is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
