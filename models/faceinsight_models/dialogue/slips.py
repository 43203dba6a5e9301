"""How hasty fingers type."""

from __future__ import annotations

import numpy as np

#: Of a character that fingers miss: one beside it.
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def misspelt(rng: np.random.Generator, text: str) -> str:
    """As hasty fingers type: a letter left out, doubled, changed for its neighbour or in the wrong place, a space
    forgotten, all in capitals."""
    if rng.random() < 0.15:
        return text.upper()
    for _ in range(int(rng.integers(1, 3))):
        if len(text) < 6:
            break
        at, kind = int(rng.integers(1, len(text) - 1)), rng.integers(5)
        one, row = text[at], next((r for r in _KEYS if text[at].lower() in r), text[at])
        if kind == 0:
            text = text[:at] + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + one + text[at:]
        elif kind == 2:
            text = text[:at] + text[at + 1] + one + text[at + 2 :]
        elif kind == 3:
            beside = row.find(one.lower()) + (1 if rng.random() < 0.5 else -1)
            text = text[:at] + row[beside % len(row)] + text[at + 1 :]
        elif " " in text:
            spaces = [i for i, c in enumerate(text) if c == " "]
            at = int(rng.choice(spaces))
            text = text[:at] + text[at + 1 :]
    return text
