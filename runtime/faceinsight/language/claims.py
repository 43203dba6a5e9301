"""Does an answer say what was found? Claims are read out of each sentence and held against the labels.

The bundle's manifest says by which words each characteristic is spoken of; the grammar of claims (who, verb, what)
is English and small, because the LLM was trained to speak in it. What cannot be read is no claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..bundle.specs import CharacteristicSpec
from ..types import Label

#: Negated and plain verbs that start a claim.
_NEGATED = (
    r"is not wearing|is not|does not have|does not look|has no|neither person|no longer|does not (?:seem|appear)"
    r"|(?:may|might|could|must|can) ?not be"
)
_PLAIN = (
    r"is wearing|is|has|looks|each of them|only the (?:first|second) person|seems|appears|(?:may|might|could|must) be"
    r"|(?:may|might|could|must) have"
)
_COUNT = r"one|two|three|four|five|six"
_VERB = re.compile(rf"\b(?:(?P<negated>{_NEGATED})\b|(?P<plain>{_PLAIN})\b|(?P<count>{_COUNT}):)", re.IGNORECASE)
_DOUBT = re.compile(r"\b(?:not sure|cannot tell|not visible)\b", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:probably|perhaps|maybe|likely|possibly|seems?|appears?|may|might|could)\b", re.IGNORECASE)
_WHO = re.compile(
    r"\b(?:(?P<only>only )?the (?P<one>first|second)|(?P<both>each of them|neither person))\b", re.IGNORECASE
)
#: What is said of two people only.
_OF_TWO = re.compile(
    r"\b(?:each of them|neither person|about either of them|both (?:of them|people)"
    r"|the (?:first|second) (?:person|one))\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"\s*(?P<word>yes|no)\b,?", re.IGNORECASE)
#: Words that negate a question, and those that only ask for a decision.
_NEGATED_QUESTION = re.compile(
    r"\b(?:not|no|never|none|nobody|neither|nor|without|lacks?|lacking|false|wrong|untrue|incorrect|free|missing|absent"
    r"|(?:is|are|was|do|does|did|has|have|wo|ca|could|would)nt)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_CONJUNCTION = re.compile(r"\b(?:and|but|nor|plus|as well as)\b", re.IGNORECASE)
_OR_NOT = re.compile(r"\b(?:yes or no|or (?:not|no|nah))\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?P<article>an?)\s+$", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?]*[.!?]+\s*|[^.!?]+$")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sentence says of one characteristic.

    Attributes:
        name: of the characteristic.
        value: that the face has it, or that it has it not.
        face: 0, or 1 for the second of two.
        start: where in the sentence it is said.
        hedged: it is said with a "probably": the labels must not deny it, and need not be sure of it.
    """

    name: str
    value: bool
    face: int = 0
    start: int = 0
    hedged: bool = False


class ClaimChecker:
    """Reads claims about the characteristics of a bundle, and checks them against labels."""

    def __init__(self, characteristics: Sequence[CharacteristicSpec]) -> None:
        """For the words by which these characteristics are spoken of."""
        # The longest wording first: "black hair" is hair before it is black.
        words = [(m.lower(), c) for c in characteristics for m in c.mentions]
        words += [(d.lower(), c) for c in characteristics for d in c.denials]
        words.sort(key=lambda pair: -len(pair[0]))
        self._by_words = dict(reversed(words))
        self._denials = {d.lower() for c in characteristics for d in c.denials}
        alternatives = "|".join(re.escape(w) for w, _ in words) or r"(?!)"
        self._words = re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)

    def claims(self, sentence: str, *, faces: int = 1) -> Iterator[Claim]:
        """What a sentence claims. A sentence in doubt claims nothing of what stands behind the doubt, unless it says
        what it holds to be likely."""
        doubt, hedge = _DOUBT.search(sentence), _HEDGE.search(sentence)
        certain = doubt.start() if doubt else len(sentence)
        likely = hedge.start() if hedge else len(sentence)
        verbs = list(_VERB.finditer(sentence))
        for found in self._words.finditer(sentence):
            hedged = found.end() > likely
            before = [v for v in verbs if v.start() <= found.start()]
            if not before or (found.start() >= certain and not (hedged and likely > certain)):
                continue
            word = found.group(0).lower()
            spec = self._by_words[word]
            value = (before[-1].lastgroup != "negated") != (word in self._denials)
            for face, v in self._whose(sentence, found, value, faces):
                yield Claim(spec.name, v != spec.inverted, face, found.start(), hedged)

    def doubted(self, sentence: str) -> set[str]:
        """Names of the characteristics of which a sentence says that it does not know them."""
        doubt = _DOUBT.search(sentence)
        return self.mentioned(sentence[doubt.end() :]) if doubt else set()

    def mentioned(self, text: str) -> set[str]:
        """Names of the characteristics that a text speaks of, in doubt or not."""
        return {self._by_words[m.group(0).lower()].name for m in self._words.finditer(text)}

    @staticmethod
    def _whose(sentence: str, found: re.Match[str], value: bool, faces: int) -> list[tuple[int, bool]]:
        """The faces that a claim is about, with what it says of each."""
        if faces == 1:
            return [(0, value)]
        who = list(_WHO.finditer(sentence, 0, found.start()))
        if not who:
            return []
        last = who[-1]
        if last["both"]:
            value = value if last["both"].lower() == "each of them" else False
            return [(0, value), (1, value)]
        one = 0 if last["one"].lower() == "first" else 1
        return [(one, value), (1 - one, not value)] if last["only"] else [(one, value)]

    def contradicts(self, sentence: str, faces: Sequence[Sequence[Label]]) -> tuple[Claim, ...]:
        """The claims of a sentence that the labels do not bear out: denied by them, or more certain than they are."""
        return _contradicted(self.claims(sentence, faces=len(faces)), faces)

    def violates(self, sentence: str, faces: Sequence[Sequence[Label]]) -> bool:
        """Does a sentence contradict the labels or itself, repeat itself, or speak of two people where there is one?"""
        if len(faces) == 1 and _OF_TWO.search(sentence):
            return True
        claims = tuple(self.claims(sentence, faces=len(faces)))
        return bool(_contradicted(claims, faces) or _repeated(claims)) or self.self_contradicts(sentence)

    def first_violation(self, text: str, faces: Sequence[Sequence[Label]]) -> int | None:
        """Where the last sentence of a growing text begins to contradict the labels, or to repeat itself; else None.

        A word that may still grow is left for the next call. A contradiction in a sentence that starts with Yes or No
        is left alone: there the decision is wrong, and no other word helps.
        """
        last = sentences(text)[-1:]
        if not last:
            return None
        begin, sentence = len(text) - len(last[0]), last[0]
        if not complete(sentence):
            sentence = sentence[: max(sentence.rfind(" "), 0)]
        claims = tuple(self.claims(sentence, faces=len(faces)))
        contradicted = () if starts_with_yes_no(sentence) else _contradicted(claims, faces)
        at = min((c.start for c in (*contradicted, *_repeated(claims))), default=None)
        if at is None:
            return None
        # Another word may need another article: "an oval face", "a pointy nose".
        article = _ARTICLE.search(sentence, 0, at)
        return begin + (article.start("article") if article else at)

    def repeats(self, sentence: str, faces: int) -> tuple[Claim, ...]:
        """The claims of a sentence about what it has spoken of already."""
        return _repeated(self.claims(sentence, faces=faces))

    def self_contradicts(self, sentence: str) -> bool:
        """Does a sentence start with Yes or No and go on to say the opposite?"""
        yes_no = _YES_NO.match(sentence)
        verb = _VERB.search(sentence, yes_no.end()) if yes_no else None
        word = self._words.search(sentence, verb.start()) if verb else None
        if not (yes_no and verb and word):
            return False
        value = (verb.lastgroup != "negated") != (word.group(0).lower() in self._denials)
        return value != (yes_no["word"].lower() == "yes")


def is_negated(question: str, opposites: Sequence[str] = ()) -> bool:
    """Is it asked with a negation ("Isn't she ...?", "Is he without ...?"), or with the opposite of a characteristic
    ("Is she old?", where "young" is one)? A "Yes" would then mean one thing to one reader and another to the next."""
    question = _OR_NOT.sub(" ", question)
    words = {w.lower() for w in re.findall(r"\w+", question)}
    return bool(_NEGATED_QUESTION.search(question)) or any(w in words for w in opposites)


def is_conjunction(question: str) -> bool:
    """Does it ask about several things, each of which wants an answer?"""
    return bool(_CONJUNCTION.search(question))


def _contradicted(claims: Iterable[Claim], faces: Sequence[Sequence[Label]]) -> tuple[Claim, ...]:
    states = [{x.name: x.state for x in labels} for labels in faces]
    return tuple(c for c in claims if c.name in states[c.face] and not _supported(c, states[c.face][c.name]))


def _supported(claim: Claim, state: str) -> bool:
    return state == ("yes" if claim.value else "no") or (claim.hedged and state == "unsure")


def _repeated(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    first: dict[tuple[str, int], int] = {}
    return tuple(c for c in claims if first.setdefault((c.name, c.face), c.start) != c.start)


def starts_with_yes_no(sentence: str) -> bool:
    """Does a sentence start with Yes or No?"""
    return bool(_YES_NO.match(sentence))


def with_yes_no(statement: str) -> str:
    """A statement as the answer to a yes/no question: "The person has no beard." -> "No, the person has no beard."."""
    verb = _VERB.search(statement)
    if not verb or _DOUBT.search(statement) or _HEDGE.search(statement):
        return statement
    word = "No" if verb.lastgroup == "negated" else "Yes"
    return f"{word}, {statement[:1].lower()}{statement[1:]}"


def without_yes_no(sentence: str) -> str:
    """Without the Yes or No before it: "No, the person has no beard." -> "The person has no beard."."""
    rest = sentence[_YES_NO.match(sentence).end() :].lstrip() if starts_with_yes_no(sentence) else sentence  # type: ignore[union-attr]
    return rest[:1].upper() + rest[1:]


def complete(text: str) -> bool:
    """Does a text end where a sentence ends?"""
    return text.rstrip().endswith((".", "!", "?"))


def sentences(text: str) -> list[str]:
    """A text cut behind each full stop; nothing is lost."""
    return _SENTENCE.findall(text)
