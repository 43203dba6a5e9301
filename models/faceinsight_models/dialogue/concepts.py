"""Concepts that can be asked about, the words for them, and the words by which an answer mentions them.

The concepts are in concepts.toml. Words marked as held out never appear in training; the benchmark asks with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faceinsight.types import NO, YES

from ..taxonomy import AGES, EXPRESSIONS, RACES
from ..toml_file import read_table


@dataclass(frozen=True)
class Concept:
    """One thing to ask about.

    Attributes:
        name: its characteristic.
        form: "wear" (is wearing X), "have" (has X), "be" (is X), "look" (looks X).
        words: said in training.
        heldout: said only in tests.
        yes: completes "The person ..." where it holds.
        no: completes "The person ..." where it does not.
        inverted: it holds where the characteristic does not (a beard, by CelebA's No_Beard).
    """

    name: str
    form: str
    words: tuple[str, ...]
    heldout: tuple[str, ...]
    yes: str
    no: str
    inverted: bool = False

    def state(self, states: Mapping[str, int]) -> int | None:
        """State of the concept; None where its characteristic is switched off."""
        s = states.get(self.name)
        return 1 - s if self.inverted and s in (NO, YES) else s


def bare(words: str) -> str:
    """Without the article."""
    return words.removeprefix("a ").removeprefix("an ").removeprefix("the ")


def _statements(form: str, words: str) -> tuple[str, str]:
    """What says that it is so, and what says that it is not."""
    noun = bare(words)
    absent = f"has no {noun}" if words != noun else f"does not have {words}"
    return {
        "wear": (f"is wearing {words}", f"is not wearing {words}"),
        "have": (f"has {words}", absent),
        "be": (f"is {words}", f"is not {words}"),
        "look": (f"looks {words}", f"does not look {words}"),
    }[form]


def _concept(
    name: str,
    *,
    form: str,
    words: Sequence[str],
    heldout: Sequence[str],
    yes: str = "",
    no: str = "",
    inverted: bool = False,
) -> Concept:
    there, absent = _statements(form, words[0])
    return Concept(name, form, tuple(words), tuple(heldout), yes or there, no or absent, inverted)


CONCEPTS = tuple(_concept(name, **fields) for name, fields in read_table(Path(__file__).with_suffix(".toml")).items())
BY_NAME = {c.name: c for c in CONCEPTS}
#: The opposites of some characteristics, by form.
OPPOSITES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Young": ("be", ("old", "elderly", "an old person", "a senior", "aged", "an old man", "an old woman")),
    "Male": ("be", ("a woman", "female", "a girl", "a lady", "a female person", "the female one")),
    "Mouth_Slightly_Open": ("have", ("the mouth closed", "a closed mouth", "the mouth shut", "the lips closed")),
    "No_Beard": ("be", ("clean shaven", "clean-shaven", "beardless", "freshly shaved")),
}
#: The same asked by the opposite: "Is she old?" is answered by what is known of being young.
OPPOSED = tuple(
    replace(BY_NAME[name], form=form, words=words, heldout=words[-1:]) for name, (form, words) in OPPOSITES.items()
)

#: Some are said of the person too: "Does she have blond hair?" is "Is she blonde?".
SAID_OF_THE_PERSON = tuple(
    replace(BY_NAME[name], form="be", words=words, heldout=words[-1:])
    for name, words in {
        "Black_Hair": ("black haired", "dark haired", "raven haired"),
        "Blond_Hair": ("blonde", "blond", "fair haired", "a blonde"),
        "Brown_Hair": ("brunette", "brown haired", "a brunette"),
        "Gray_Hair": ("gray haired", "grey haired", "going gray", "grizzled"),
        "Wavy_Hair": ("curly haired", "wavy haired"),
        "No_Beard": ("bearded", "unshaven", "a bearded man"),
        "Pale_Skin": ("pale", "pale skinned", "very pale", "pallid"),
        "Chubby": ("chubby", "chubby cheeked", "plump", "round faced"),
        "Rosy_Cheeks": ("rosy cheeked", "blushing", "flushed"),
        "Heavy_Makeup": ("made up", "heavily made up"),
    }.items()
)

STYLES = {"Straight_Hair": "straight", "Wavy_Hair": "wavy"}
COLORS = {"Black_Hair": "black", "Blond_Hair": "blond", "Brown_Hair": "brown", "Gray_Hair": "gray"}
WORN_NAMES = {
    "Eyeglasses": "glasses", "Wearing_Hat": "a hat", "Wearing_Earrings": "earrings", "Wearing_Necklace": "a necklace",
    "Wearing_Necktie": "a necktie", "Wearing_Lipstick": "lipstick",
}  # fmt: skip
_MENTIONS = {
    "Attractive": ("attractive", "beautiful", "pretty", "handsome", "ugly"),
    "Male": ("man", "men", "male", "boy"),
    "Young": ("young", "child"),
    "5_o_Clock_Shadow": ("five o'clock shadow", "stubble"),
    "Heavy_Makeup": ("makeup",),
    "Mouth_Slightly_Open": ("mouth",),
    "Straight_Hair": ("straight",),
    "Wavy_Hair": ("wavy",),
    "Wearing_Hat": ("hat",),
}
FACIAL_NAMES = {
    "Mustache": "a mustache",
    "Goatee": "a goatee",
    "Sideburns": "sideburns",
    "5_o_Clock_Shadow": "stubble",
}


_DENIALS = {
    "Male": ("woman", "women", "female", "girl"),
    "Young": ("old", "elderly", "adult"),
    "Mouth_Slightly_Open": ("mouth closed",),
}
#: Words of a question that ask for the opposite of a characteristic: "yes" would be misunderstood.
OPPOSITE_WORDS = (
    *(word for words in _DENIALS.values() for word in words),
    "lady", "senior", "aged", "closed", "shut", "shaven", "shaved", "beardless",
)  # fmt: skip


def denials(name: str) -> tuple[str, ...]:
    """Words that say by themselves that a characteristic is absent."""
    return _DENIALS.get(name, ())


def absent(name: str) -> str:
    """Completes "The person ..." where the characteristic is absent."""
    if name not in BY_NAME:
        return "is not attractive"
    concept = BY_NAME[name]
    return concept.yes if concept.inverted else concept.no


def mentions(name: str) -> tuple[str, ...]:
    """Words by which an answer mentions a characteristic."""
    if name in _MENTIONS:
        return _MENTIONS[name]
    if name in AGES:
        return (f"{AGES[name]} years old",)
    if name in RACES:
        # Hair is black and teeth are white: these two count only as words for the person.
        alone = () if name in ("White", "Black") else (RACES[name],)
        return (f"looks {RACES[name]}", f"look {RACES[name]}", f"person is {RACES[name]}", *alone)
    if name in EXPRESSIONS:
        return (EXPRESSIONS[name],)
    concept = next(c for c in CONCEPTS if c.name == name)
    noun = bare(concept.words[0])
    if name in COLORS:
        return noun, f"hair is {COLORS[name]}", f"probably {COLORS[name]}"
    return (noun,)
