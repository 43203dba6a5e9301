"""What can be asked about: the concepts, the words for them, and by which words an answer speaks of them.

Words marked as held out never appear in training; the benchmark asks with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faceinsight.labels import NO, YES

from .vocabulary import AGES, EXPRESSIONS, RACES


@dataclass(frozen=True)
class Concept:
    """One thing to ask about: its characteristic, how it is said, and the two statements that answer it.

    form: "wear" (is wearing X), "have" (has X), "be" (is X), "look" (looks X).
    `words` are said in training, `heldout` only in tests.
    `inverted`: the concept is present when the characteristic is absent (a beard, by CelebA's No_Beard).
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


def _has(name: str, words: Sequence[str], heldout: Sequence[str] = (), *, inverted: bool = False) -> Concept:
    plain = words[0]
    noun = bare(plain)
    no = f"has no {noun}" if plain != noun else f"does not have {plain}"
    return Concept(name, "have", tuple(words), tuple(heldout), f"has {plain}", no, inverted)


def _wears(name: str, words: Sequence[str], heldout: Sequence[str] = ()) -> Concept:
    plain = words[0]
    return Concept(name, "wear", tuple(words), tuple(heldout), f"is wearing {plain}", f"is not wearing {plain}")


def _is(name: str, words: Sequence[str], heldout: Sequence[str] = ()) -> Concept:
    return Concept(name, "be", tuple(words), tuple(heldout), f"is {words[0]}", f"is not {words[0]}")


def _looks(name: str, words: Sequence[str], heldout: Sequence[str] = ()) -> Concept:
    return Concept(name, "look", tuple(words), tuple(heldout), f"looks {words[0]}", f"does not look {words[0]}")


def _aged(name: str, words: Sequence[str], heldout: Sequence[str] = ()) -> Concept:
    years = f"{AGES[name]} years old"
    return Concept(name, "be", tuple(words), tuple(heldout), f"is {years}", f"is not {years}")


CONCEPTS = (
    _has(
        "5_o_Clock_Shadow",
        [
            "a five o'clock shadow",
            "stubble",
            "a stubbly chin",
            "a beard shadow",
            "a dark shadow on the chin",
            "beard stubble",
        ],
        ["a shadow of a beard"],
    ),
    _has(
        "Arched_Eyebrows",
        ["arched eyebrows", "arched brows", "curved eyebrows", "brows in an arch"],
        ["eyebrows that are arched"],
    ),
    _has(
        "Bags_Under_Eyes",
        ["bags under the eyes", "eye bags", "bags under both eyes", "puffy bags beneath the eyes"],
        ["bags below the eyes"],
    ),
    _is("Bald", ["bald", "bald headed", "without hair on the head"], ["completely bald"]),
    _has("Bangs", ["bangs", "a fringe", "hair over the forehead"], ["bangs over the forehead"]),
    _has("Big_Lips", ["full lips", "big lips", "thick lips"], ["large lips"]),
    _has("Big_Nose", ["a big nose", "a large nose", "a wide nose", "a nose of great size"], ["quite a big nose"]),
    _has("Black_Hair", ["black hair", "dark black hair", "hair that is black"], ["jet black hair"]),
    _has(
        "Blond_Hair",
        ["blond hair", "blonde hair", "fair hair", "dark blond hair", "golden hair"],
        ["hair that is blond"],
    ),
    _is("Blurry", ["blurry in the picture", "blurred", "out of focus"], ["blurry"]),
    _has(
        "Brown_Hair",
        ["brown hair", "brunette hair", "hair that is brown", "light brown hair", "chestnut hair", "deep brown hair"],
        ["dark brown hair"],
    ),
    _has(
        "Bushy_Eyebrows",
        ["bushy eyebrows", "thick eyebrows", "bushy brows", "dense eyebrows", "wild bushy brows"],
        ["heavy bushy eyebrows"],
    ),
    _has("Chubby", ["a chubby face", "chubby cheeks", "a plump face"], ["a face that is chubby"]),
    _has("Double_Chin", ["a double chin", "a second chin"], ["any double chin"]),
    _wears(
        "Eyeglasses",
        ["glasses", "eyeglasses", "spectacles", "a pair of glasses", "eyewear", "sunglasses", "shades"],
        ["any glasses", "specs"],
    ),
    _has("Goatee", ["a goatee", "a goatee beard", "a chin beard", "a small goatee"], ["any goatee"]),
    _has("Gray_Hair", ["gray hair", "grey hair", "white or gray hair"], ["hair that is gray"]),
    _wears("Heavy_Makeup", ["heavy makeup", "a lot of makeup", "makeup"], ["much makeup"]),
    _has(
        "High_Cheekbones",
        ["high cheekbones", "prominent cheekbones", "raised cheekbones"],
        ["cheekbones that are high"],
    ),
    Concept("Male", "be", ("a man", "male", "a guy"), ("a male person",), "is a man", "is a woman"),
    Concept(
        "Mouth_Slightly_Open",
        "have",
        ("the mouth open", "the mouth slightly open", "an open mouth", "the lips parted"),
        ("a slightly open mouth",),
        "has the mouth slightly open",
        "has the mouth closed",
    ),
    _has("Mustache", ["a mustache", "a moustache", "hair on the upper lip"], ["any mustache"]),
    _has("Narrow_Eyes", ["narrow eyes", "narrowed eyes"], ["eyes that are narrow"]),
    _has(
        "No_Beard",
        ["a beard", "facial hair", "any beard", "a bearded chin", "a full beard", "a long beard", "a sort of beard"],
        ["some kind of beard"],
        inverted=True,
    ),
    _has(
        "Oval_Face",
        ["an oval face", "an oval shaped face", "a face shaped like an oval", "an oval head shape"],
        ["a face that is oval"],
    ),
    _has("Pale_Skin", ["pale skin", "a pale face", "skin of a pale tone"], ["skin that is pale"]),
    _has(
        "Pointy_Nose",
        ["a pointy nose", "a pointed nose", "a sharp nose", "a nose with a sharp tip", "a nose ending in a point"],
        ["a nose that is pointy"],
    ),
    _has(
        "Receding_Hairline",
        ["a receding hairline", "a high receding hairline", "receding hair"],
        ["any receding hairline"],
    ),
    _has(
        "Rosy_Cheeks",
        ["rosy cheeks", "red cheeks", "pink cheeks", "a rosy glow on the cheeks", "cheeks with a red blush"],
        ["cheeks that are rosy"],
    ),
    _has("Sideburns", ["sideburns", "long sideburns"], ["any sideburns"]),
    _is("Smiling", ["smiling", "grinning", "showing a smile", "laughing"], ["giving a smile"]),
    _has(
        "Straight_Hair",
        ["straight hair", "hair that is straight", "straight looking hair", "perfectly straight hair"],
        ["very straight hair"],
    ),
    _has(
        "Wavy_Hair",
        [
            "wavy hair",
            "curly hair",
            "hair with waves",
            "wavy looking hair",
            "hair falling in waves",
            "hair that is curly",
        ],
        ["hair that is wavy"],
    ),
    _wears("Wearing_Earrings", ["earrings", "an earring", "a pair of earrings"], ["any earrings"]),
    _wears(
        "Wearing_Hat",
        [
            "a hat",
            "a cap",
            "something on the head",
            "a hat or cap",
            "headwear",
            "a head covering",
            "a helmet",
            "a beanie",
        ],
        ["any hat", "a headgear"],
    ),
    _wears("Wearing_Lipstick", ["lipstick", "some lipstick", "lip color"], ["any lipstick"]),
    _wears("Wearing_Necklace", ["a necklace", "a chain around the neck"], ["any necklace"]),
    _wears("Wearing_Necktie", ["a necktie", "a tie"], ["any tie"]),
    _is("Young", ["young", "a young person"], ["still young"]),
    _looks(
        "Neutral",
        ["neutral", "expressionless", "without any expression", "without emotion", "free of emotion", "blank"],
        ["emotionless"],
    ),
    _looks("Happiness", ["happy", "cheerful", "joyful", "glad"], ["very happy"]),
    _looks("Surprise", ["surprised", "astonished", "amazed"], ["really surprised"]),
    _looks("Sadness", ["sad", "unhappy", "sorrowful"], ["a bit sad"]),
    _looks("Anger", ["angry", "furious", "annoyed"], ["very angry"]),
    _looks("Disgust", ["disgusted", "full of disgust"], ["rather disgusted"]),
    _looks("Fear", ["afraid", "scared", "frightened"], ["a little scared"]),
    _looks("Contempt", ["contemptuous", "full of contempt"], ["somewhat contemptuous"]),
    _aged("Age_0_2", ["a baby", "a toddler", "up to 2 years old"], ["an infant"]),
    _aged("Age_3_9", ["3 to 9 years old", "a small child", "a little kid"], ["a young kid"]),
    _aged("Age_10_19", ["10 to 19 years old", "a teenager", "a teen"], ["still a teenager"]),
    _aged("Age_20_29", ["20 to 29 years old", "in the twenties"], ["somewhere in the twenties"]),
    _aged("Age_30_39", ["30 to 39 years old", "in the thirties"], ["somewhere in the thirties"]),
    _aged("Age_40_49", ["40 to 49 years old", "in the forties"], ["somewhere in the forties"]),
    _aged("Age_50_59", ["50 to 59 years old", "in the fifties"], ["somewhere in the fifties"]),
    _aged("Age_60_69", ["60 to 69 years old", "in the sixties"], ["somewhere in the sixties"]),
    _aged("Age_70", ["70 or more years old", "over seventy", "older than 70"], ["at least seventy"]),
    *(_looks(n, [race], [f"rather {race}"]) for n, race in RACES.items()),
)
BY_NAME = {c.name: c for c in CONCEPTS}

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
    """Words of an answer that speak of a characteristic."""
    if name in _MENTIONS:
        return _MENTIONS[name]
    if name in AGES:
        return (f"{AGES[name]} years old",)
    if name in RACES:
        # Hair is black and teeth are white: these two count only where they speak of the person.
        alone = () if name in ("White", "Black") else (RACES[name],)
        return (f"looks {RACES[name]}", f"look {RACES[name]}", f"person is {RACES[name]}", *alone)
    if name in EXPRESSIONS:
        return (EXPRESSIONS[name],)
    concept = next(c for c in CONCEPTS if c.name == name)
    noun = bare(concept.words[0])
    if name in COLORS:
        return noun, f"hair is {COLORS[name]}", f"probably {COLORS[name]}"
    return (noun,)
