"""Is a question in another language than English? Told by its script, or by words that English has not.

Only as much as an honest refusal needs, which is given in that language. languages.json holds, for each, what is said,
the letters of its script where it has one, and words that questions about a face are made of.
What is not listed there is left to the question encoder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_ENGLISH = frozenset(_TABLE.pop("en")["words"].split())
#: Language -> what is said in it.
DECLINES: dict[str, str] = {language: entry["decline"] for language, entry in _TABLE.items()}
#: Language -> letters that tell it; the first that has one of its letters wins.
_SCRIPTS = {language: re.compile(f"[{entry['script']}]") for language, entry in _TABLE.items() if "script" in entry}
#: Language -> words that tell it; a Latin letter by itself tells nothing.
_WORDS = {
    language: frozenset(w for w in entry.get("words", "").split() if len(w) > 1 or not w.isascii()) - _ENGLISH
    for language, entry in _TABLE.items()
}
_TOKEN = re.compile(r"[^\W\d_]+(?:-t-[^\W\d_]+)?")


def language_of(question: str) -> str | None:
    """Code of the language of a question that is not English, one of `DECLINES`; None for English, or unknown."""
    letters = [c for c in question if c.isalpha()]
    if 2 * sum(c > "\u02ff" for c in letters) > len(letters):
        return next((language for language, script in _SCRIPTS.items() if script.search(question)), None)
    words = [w.lower() for w in _TOKEN.findall(question)]
    english = sum(w in _ENGLISH for w in words)
    counts = {language: sum(w in entry for w in words) for language, entry in _WORDS.items()}
    best = max(counts, key=counts.__getitem__)
    # One word among others may be a name, or a slip of the finger.
    return best if counts[best] > english and 2 * counts[best] >= len(words) else None
