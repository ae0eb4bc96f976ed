"""Answer a word that is unknown: with the known one that it resembles, and with all known ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(word: object, known: Iterable[str]) -> str:
    """Return the rest of an error line about an unknown word: "is unknown; did you mean 'dino'? known: dino, ibot"."""
    return f"is unknown; {did_you_mean(word, known)}known: {', '.join(known)}"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "did you mean 'WORD'? " with the known word that resembles an unknown one; empty if none does."""
    close = get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
