"""What can be asked about: the concepts, the words for them, and by which words an answer speaks of them.

Words marked as held out never appear in training; the benchmark asks with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
            "some stubble",
            "a stubble beard",
            "unshaven skin",
            "a day's beard",
            "scruff",
            "designer stubble",
        ],
        ["a shadow of a beard"],
    ),
    _has(
        "Arched_Eyebrows",
        [
            "arched eyebrows",
            "arched brows",
            "curved eyebrows",
            "brows in an arch",
            "high arched brows",
            "eyebrows with an arch",
            "raised eyebrows",
            "arches over the eyes",
            "curvy eyebrows",
        ],
        ["eyebrows that are arched"],
    ),
    _has(
        "Bags_Under_Eyes",
        [
            "bags under the eyes",
            "eye bags",
            "bags under both eyes",
            "puffy bags beneath the eyes",
            "eyebags",
            "swollen lower lids",
            "dark circles under the eyes",
            "rings under the eyes",
            "puffy eyes",
            "circles below the eyes",
        ],
        ["bags below the eyes"],
    ),
    _is(
        "Bald",
        [
            "bald",
            "bald headed",
            "without hair on the head",
            "hairless",
            "bald on top",
            "a baldy",
            "bald as an egg",
            "a bald person",
            "shaved on the head",
        ],
        ["completely bald"],
    ),
    _has(
        "Bangs",
        [
            "bangs",
            "a fringe",
            "hair over the forehead",
            "a fringe over the forehead",
            "hair in the face",
            "bangs in front",
            "hair across the brow",
            "a full fringe",
        ],
        ["bangs over the forehead"],
    ),
    _has(
        "Big_Lips",
        ["full lips", "big lips", "thick lips", "plump lips", "a full mouth", "pouty lips", "wide lips", "fat lips"],
        ["large lips"],
    ),
    _has(
        "Big_Nose",
        [
            "a big nose",
            "a large nose",
            "a wide nose",
            "a nose of great size",
            "a huge nose",
            "a broad nose",
            "a prominent nose",
            "a long nose",
            "a massive nose",
            "a wide snout",
        ],
        ["quite a big nose"],
    ),
    _has(
        "Black_Hair",
        [
            "black hair",
            "dark black hair",
            "hair that is black",
            "dark hair",
            "raven hair",
            "black locks",
            "ebony hair",
            "pitch black hair",
        ],
        ["jet black hair"],
    ),
    _has(
        "Blond_Hair",
        [
            "blond hair",
            "blonde hair",
            "fair hair",
            "dark blond hair",
            "golden hair",
            "light hair",
            "yellow hair",
            "sandy hair",
            "platinum hair",
            "blond locks",
            "hair of a blond shade",
        ],
        ["hair that is blond"],
    ),
    _is(
        "Blurry",
        [
            "blurry in the picture",
            "blurred",
            "out of focus",
            "not sharp",
            "unsharp",
            "fuzzy",
            "shaky",
            "hazy",
            "blurred out",
            "badly focused",
        ],
        ["blurry"],
    ),
    _has(
        "Brown_Hair",
        [
            "brown hair",
            "brunette hair",
            "hair that is brown",
            "light brown hair",
            "chestnut hair",
            "deep brown hair",
            "chocolate hair",
            "hazel hair",
            "brown locks",
            "light brunette hair",
            "mousy hair",
        ],
        ["dark brown hair"],
    ),
    _has(
        "Bushy_Eyebrows",
        [
            "bushy eyebrows",
            "thick eyebrows",
            "bushy brows",
            "dense eyebrows",
            "wild bushy brows",
            "full eyebrows",
            "strong eyebrows",
            "hairy eyebrows",
            "wild brows",
            "bushy thick brows",
        ],
        ["heavy bushy eyebrows"],
    ),
    _has(
        "Chubby",
        [
            "a chubby face",
            "chubby cheeks",
            "a plump face",
            "a round face",
            "a full face",
            "fat cheeks",
            "a pudgy face",
            "puffy cheeks",
            "round cheeks",
        ],
        ["a face that is chubby"],
    ),
    _has(
        "Double_Chin",
        [
            "a double chin",
            "a second chin",
            "two chins",
            "a doubled chin",
            "a chin fold",
            "a fat chin",
            "a fold under the chin",
        ],
        ["any double chin"],
    ),
    _wears(
        "Eyeglasses",
        [
            "glasses",
            "eyeglasses",
            "spectacles",
            "a pair of glasses",
            "eyewear",
            "sunglasses",
            "shades",
            "reading glasses",
            "eyeglass frames",
            "goggles",
            "a spectacle frame",
            "dark glasses",
            "rimless glasses",
            "sun glasses",
            "bifocals",
            "lenses in a frame",
            "a monocle",
        ],
        ["any glasses", "specs"],
    ),
    _has(
        "Goatee",
        [
            "a goatee",
            "a goatee beard",
            "a chin beard",
            "a small goatee",
            "a chin tuft",
            "a little beard on the chin",
            "a pointed beard",
            "a Van Dyke beard",
            "a soul patch",
        ],
        ["any goatee"],
    ),
    _has(
        "Gray_Hair",
        [
            "gray hair",
            "grey hair",
            "white or gray hair",
            "silver hair",
            "white hair",
            "greying hair",
            "graying hair",
            "salt and pepper hair",
        ],
        ["hair that is gray"],
    ),
    _wears(
        "Heavy_Makeup",
        [
            "heavy makeup",
            "a lot of makeup",
            "makeup",
            "make-up",
            "make up",
            "eyeshadow",
            "mascara",
            "foundation",
            "eyeliner",
            "lots of cosmetics",
            "blush",
            "strong makeup",
        ],
        ["much makeup"],
    ),
    _has(
        "High_Cheekbones",
        [
            "high cheekbones",
            "prominent cheekbones",
            "raised cheekbones",
            "strong cheekbones",
            "pronounced cheekbones",
            "sharp cheekbones",
            "marked cheekbones",
        ],
        ["cheekbones that are high"],
    ),
    Concept(
        "Male",
        "be",
        (
            "a man",
            "male",
            "a guy",
            "a gentleman",
            "a male",
            "masculine",
            "a boy",
            "a dude",
            "a lad",
            "a fellow",
            "a bloke",
        ),
        ("a male person",),
        "is a man",
        "is a woman",
    ),
    Concept(
        "Mouth_Slightly_Open",
        "have",
        (
            "the mouth open",
            "the mouth slightly open",
            "an open mouth",
            "the lips parted",
            "a gaping mouth",
            "the lips apart",
            "the mouth wide open",
            "a mouth that is open",
            "an open jaw",
            "the mouth ajar",
        ),
        ("a slightly open mouth",),
        "has the mouth slightly open",
        "has the mouth closed",
    ),
    _has(
        "Mustache",
        [
            "a mustache",
            "a moustache",
            "hair on the upper lip",
            "a moustache above the lip",
            "a handlebar mustache",
            "a tache",
            "whiskers on the lip",
            "a little mustache",
        ],
        ["any mustache"],
    ),
    _has(
        "Narrow_Eyes",
        [
            "narrow eyes",
            "narrowed eyes",
            "small eyes",
            "squinting eyes",
            "slit eyes",
            "tight eyes",
            "squinty eyes",
            "half closed eyes",
        ],
        ["eyes that are narrow"],
    ),
    _has(
        "No_Beard",
        [
            "a beard",
            "facial hair",
            "any beard",
            "a bearded chin",
            "a full beard",
            "a long beard",
            "a sort of beard",
            "a bushy beard",
            "facial fuzz",
            "whiskers",
            "a thick beard",
            "a short beard",
            "a trimmed beard",
            "chin hair",
            "hair on the chin",
            "a stubbly beard",
            "hair on the face",
        ],
        ["some kind of beard"],
        inverted=True,
    ),
    _has(
        "Oval_Face",
        [
            "an oval face",
            "an oval shaped face",
            "a face shaped like an oval",
            "an oval head shape",
            "an egg shaped face",
            "an elongated face",
            "a long oval face",
            "an oval head",
        ],
        ["a face that is oval"],
    ),
    _has(
        "Pale_Skin",
        [
            "pale skin",
            "a pale face",
            "skin of a pale tone",
            "white pale skin",
            "a light complexion",
            "pallid skin",
            "a pale complexion",
            "a whitish face",
            "fair skin",
        ],
        ["skin that is pale"],
    ),
    _has(
        "Pointy_Nose",
        [
            "a pointy nose",
            "a pointed nose",
            "a sharp nose",
            "a nose with a sharp tip",
            "a nose ending in a point",
            "a pointed tip of the nose",
            "a sharp pointed nose",
            "a spiky nose",
            "a pointy tip",
            "a beaky nose",
        ],
        ["a nose that is pointy"],
    ),
    _has(
        "Receding_Hairline",
        [
            "a receding hairline",
            "a high receding hairline",
            "receding hair",
            "a hairline that recedes",
            "thinning hair",
            "a high forehead",
            "a retreating hairline",
            "hair loss in front",
            "a widow's peak",
        ],
        ["any receding hairline"],
    ),
    _has(
        "Rosy_Cheeks",
        [
            "rosy cheeks",
            "red cheeks",
            "pink cheeks",
            "a rosy glow on the cheeks",
            "cheeks with a red blush",
            "blushing cheeks",
            "flushed cheeks",
            "reddish cheeks",
            "a red glow in the face",
            "ruddy cheeks",
        ],
        ["cheeks that are rosy"],
    ),
    _has(
        "Sideburns",
        [
            "sideburns",
            "long sideburns",
            "side whiskers",
            "mutton chops",
            "sideboards",
            "hair in front of the ears",
            "burns at the sides",
        ],
        ["any sideburns"],
    ),
    _is(
        "Smiling",
        [
            "smiling",
            "grinning",
            "showing a smile",
            "laughing",
            "happily smiling",
            "beaming",
            "smiling a little",
            "cheesing",
            "with a grin",
            "with a smile on the face",
            "chuckling",
            "smirking",
            "smiley",
        ],
        ["giving a smile"],
    ),
    _has(
        "Straight_Hair",
        [
            "straight hair",
            "hair that is straight",
            "straight looking hair",
            "perfectly straight hair",
            "sleek hair",
            "smooth straight hair",
            "uncurled hair",
            "flat hair",
            "hair without waves",
        ],
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
            "curls",
            "locks with waves",
            "a curly head",
            "frizzy hair",
            "ringlets",
            "a wavy hairstyle",
            "curled hair",
        ],
        ["hair that is wavy"],
    ),
    _wears(
        "Wearing_Earrings",
        [
            "earrings",
            "an earring",
            "a pair of earrings",
            "ear rings",
            "studs in the ears",
            "ear studs",
            "hoops in the ears",
            "hoop earrings",
            "jewels in the ears",
            "ear jewellery",
            "pendants at the ears",
        ],
        ["any earrings"],
    ),
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
            "a beret",
            "a baseball cap",
            "a bonnet",
            "a hood",
            "a turban",
            "a headscarf",
            "a cowboy hat",
            "a fedora",
            "a straw hat",
            "a top hat",
            "a bowler",
            "a knit cap",
            "a woolly hat",
            "a lid",
            "a sombrero",
            "a head scarf",
            "a crown",
            "a visor",
            "a hairnet",
            "a sun hat",
            "a bobble hat",
        ],
        ["any hat", "a headgear"],
    ),
    _wears(
        "Wearing_Lipstick",
        [
            "lipstick",
            "some lipstick",
            "lip color",
            "red lipstick",
            "lip gloss",
            "painted lips",
            "coloured lips",
            "lip paint",
            "pink lipstick",
            "made up lips",
        ],
        ["any lipstick"],
    ),
    _wears(
        "Wearing_Necklace",
        [
            "a necklace",
            "a chain around the neck",
            "a pearl necklace",
            "a chain",
            "a pendant",
            "a gold chain",
            "a choker",
            "beads around the neck",
            "jewellery around the neck",
        ],
        ["any necklace"],
    ),
    _wears(
        "Wearing_Necktie",
        [
            "a necktie",
            "a tie",
            "a bow tie",
            "a cravat",
            "a tie around the neck",
            "a striped tie",
            "neckwear",
            "a black tie",
        ],
        ["any tie"],
    ),
    _is(
        "Young",
        ["young", "a young person", "youthful", "a youngster", "a young adult", "young looking", "a youth", "juvenile"],
        ["still young"],
    ),
    _looks(
        "Neutral",
        [
            "neutral",
            "expressionless",
            "without any expression",
            "without emotion",
            "free of emotion",
            "blank",
            "with a blank face",
            "without a smile or a frown",
            "unemotional",
            "deadpan",
            "poker faced",
            "impassive",
            "calm",
            "serious",
        ],
        ["emotionless"],
    ),
    _looks(
        "Happiness",
        [
            "happy",
            "cheerful",
            "joyful",
            "glad",
            "joyous",
            "delighted",
            "merry",
            "in a good mood",
            "full of joy",
            "pleased",
            "jolly",
            "overjoyed",
        ],
        ["very happy"],
    ),
    _looks(
        "Surprise",
        [
            "surprised",
            "astonished",
            "amazed",
            "startled",
            "shocked",
            "stunned",
            "taken aback",
            "full of surprise",
            "flabbergasted",
        ],
        ["really surprised"],
    ),
    _looks(
        "Sadness",
        [
            "sad",
            "unhappy",
            "sorrowful",
            "sorry",
            "gloomy",
            "downcast",
            "miserable",
            "mournful",
            "blue and sad",
            "in a sad mood",
            "melancholic",
        ],
        ["a bit sad"],
    ),
    _looks(
        "Anger",
        [
            "angry",
            "furious",
            "annoyed",
            "mad",
            "cross",
            "enraged",
            "pissed",
            "pissed off",
            "irritated",
            "in a rage",
            "raging",
            "full of anger",
        ],
        ["very angry"],
    ),
    _looks(
        "Disgust",
        ["disgusted", "full of disgust", "revolted", "repelled", "grossed out", "nauseated by something"],
        ["rather disgusted"],
    ),
    _looks(
        "Fear",
        [
            "afraid",
            "scared",
            "frightened",
            "fearful",
            "terrified",
            "in fear",
            "panicked",
            "full of fear",
            "alarmed",
            "horrified",
        ],
        ["a little scared"],
    ),
    _looks(
        "Contempt",
        ["contemptuous", "full of contempt", "scornful", "disdainful", "sneering", "full of scorn", "dismissive"],
        ["somewhat contemptuous"],
    ),
    _aged(
        "Age_0_2",
        [
            "a baby",
            "a toddler",
            "up to 2 years old",
            "a newborn",
            "a suckling",
            "a tiny baby",
            "one year old",
            "a little baby",
        ],
        ["an infant"],
    ),
    _aged(
        "Age_3_9",
        [
            "3 to 9 years old",
            "a small child",
            "a little kid",
            "a little boy",
            "a little girl",
            "five years old",
            "in primary school age",
            "a child",
        ],
        ["a young kid"],
    ),
    _aged(
        "Age_10_19",
        ["10 to 19 years old", "a teenager", "a teen", "an adolescent", "fifteen years old", "underage", "a minor"],
        ["still a teenager"],
    ),
    _aged(
        "Age_20_29",
        [
            "20 to 29 years old",
            "in the twenties",
            "in the 20s",
            "about 25 years old",
            "around 25",
            "a person in the twenties",
        ],
        ["somewhere in the twenties"],
    ),
    _aged(
        "Age_30_39",
        [
            "30 to 39 years old",
            "in the thirties",
            "in the 30s",
            "about 35 years old",
            "around 35",
            "a person in the thirties",
        ],
        ["somewhere in the thirties"],
    ),
    _aged(
        "Age_40_49",
        [
            "40 to 49 years old",
            "in the forties",
            "in the 40s",
            "about 45 years old",
            "around 45",
            "a person in the forties",
        ],
        ["somewhere in the forties"],
    ),
    _aged(
        "Age_50_59",
        [
            "50 to 59 years old",
            "in the fifties",
            "in the 50s",
            "about 55 years old",
            "around 55",
            "a person in the fifties",
        ],
        ["somewhere in the fifties"],
    ),
    _aged(
        "Age_60_69",
        [
            "60 to 69 years old",
            "in the sixties",
            "in the 60s",
            "about 65 years old",
            "around 65",
            "a person in the sixties",
        ],
        ["somewhere in the sixties"],
    ),
    _aged(
        "Age_70",
        [
            "70 or more years old",
            "over seventy",
            "older than 70",
            "a pensioner",
            "about 75 years old",
            "an octogenarian",
            "in the eighties",
        ],
        ["at least seventy"],
    ),
    *(_looks(n, [race, f"{race} by race", f"of {race} race"], [f"rather {race}"]) for n, race in RACES.items()),
)
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
