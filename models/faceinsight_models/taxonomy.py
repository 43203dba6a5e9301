"""Characteristics, regions and rules of the recipe `nano`: the one place where their names and orders are written.

Sources: CelebA's 40 attributes (Liu et al. 2015), FairFace's age bins and races in its repository's order (Karkkainen
and Joo 2021), FER+'s eight expressions in its CSV's order (Barsoum et al. 2016), CelebAMask-HQ's 19 classes (Lee et al.
2020); which region shows an attribute and which rules hold are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from faceinsight.bundle.specs import RuleSpec

#: CelebAMask-HQ classes in the order of their label values.
MASK_CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
#: What a horizontal flip does to the label values.
FLIP_CLASSES = (0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18)

#: Regions: unions of mask classes. The first one is the whole crop.
REGIONS: dict[str, tuple[str, ...]] = {
    "face": ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip"),
    "skin": ("skin",),
    "nose": ("nose",),
    "glasses": ("eye_g",),
    "eyes": ("l_eye", "r_eye"),
    "brows": ("l_brow", "r_brow"),
    "ears": ("l_ear", "r_ear"),
    "mouth": ("mouth", "u_lip", "l_lip"),
    "hair": ("hair",),
    "hat": ("hat",),
    "earring": ("ear_r",),
    "necklace": ("neck_l",),
    "neck": ("neck",),
    "clothes": ("cloth",),
}


@dataclass(frozen=True)
class Characteristic:
    """One characteristic.

    Attributes:
        name: as in CelebA, or ours.
        phrase: completes "The person ...": used for the text features and in answers.
        region: that shows it.
        group: "" is always on, "never" is never answered, the others are switches (`SWITCHES`). "subjective":
            annotators of one picture do not agree on it (arXiv 2210.07356).
    """

    name: str
    phrase: str
    region: str
    group: str = ""


#: Switches a user can turn, and whether they are on by default.
SWITCHES = {"gender": False, "age": False, "race": False, "expression": True, "subjective": False}

_ATTRIBUTES = (
    Characteristic("5_o_Clock_Shadow", "has a five o'clock shadow", "skin"),
    Characteristic("Arched_Eyebrows", "has arched eyebrows", "brows"),
    Characteristic("Attractive", "is attractive", "face", "never"),
    Characteristic("Bags_Under_Eyes", "has bags under the eyes", "eyes"),
    Characteristic("Bald", "is bald", "hair"),
    Characteristic("Bangs", "has bangs", "hair"),
    Characteristic("Big_Lips", "has full lips", "mouth", "subjective"),
    Characteristic("Big_Nose", "has a big nose", "nose", "subjective"),
    Characteristic("Black_Hair", "has black hair", "hair"),
    Characteristic("Blond_Hair", "has blond hair", "hair"),
    Characteristic("Blurry", "is blurry in the picture", "face"),
    Characteristic("Brown_Hair", "has brown hair", "hair"),
    Characteristic("Bushy_Eyebrows", "has bushy eyebrows", "brows"),
    Characteristic("Chubby", "has a chubby face", "skin", "subjective"),
    Characteristic("Double_Chin", "has a double chin", "neck", "subjective"),
    Characteristic("Eyeglasses", "is wearing glasses", "glasses"),
    Characteristic("Goatee", "has a goatee", "skin"),
    Characteristic("Gray_Hair", "has gray hair", "hair"),
    Characteristic("Heavy_Makeup", "is wearing heavy makeup", "skin"),
    Characteristic("High_Cheekbones", "has high cheekbones", "skin", "subjective"),
    Characteristic("Male", "is a man", "face", "gender"),
    Characteristic("Mouth_Slightly_Open", "has the mouth slightly open", "mouth"),
    Characteristic("Mustache", "has a mustache", "skin"),
    Characteristic("Narrow_Eyes", "has narrow eyes", "eyes", "race"),
    Characteristic("No_Beard", "has no beard", "skin"),
    Characteristic("Oval_Face", "has an oval face", "skin", "subjective"),
    Characteristic("Pale_Skin", "has pale skin", "skin", "race"),
    Characteristic("Pointy_Nose", "has a pointy nose", "nose", "subjective"),
    Characteristic("Receding_Hairline", "has a receding hairline", "hair"),
    Characteristic("Rosy_Cheeks", "has rosy cheeks", "skin"),
    Characteristic("Sideburns", "has sideburns", "hair"),
    Characteristic("Smiling", "is smiling", "mouth"),
    Characteristic("Straight_Hair", "has straight hair", "hair"),
    Characteristic("Wavy_Hair", "has wavy hair", "hair"),
    Characteristic("Wearing_Earrings", "is wearing earrings", "earring"),
    Characteristic("Wearing_Hat", "is wearing a hat", "hat"),
    Characteristic("Wearing_Lipstick", "is wearing lipstick", "mouth"),
    Characteristic("Wearing_Necklace", "is wearing a necklace", "necklace"),
    Characteristic("Wearing_Necktie", "is wearing a necktie", "clothes"),
    Characteristic("Young", "is young", "face", "age"),
)
AGES = {
    "Age_0_2": "up to 2", "Age_3_9": "3 to 9", "Age_10_19": "10 to 19", "Age_20_29": "20 to 29",
    "Age_30_39": "30 to 39", "Age_40_49": "40 to 49", "Age_50_59": "50 to 59", "Age_60_69": "60 to 69",
    "Age_70": "70 or more",
}  # fmt: skip
RACES = {
    "White": "White", "Black": "Black", "Latino_Hispanic": "Latino or Hispanic", "East_Asian": "East Asian",
    "Southeast_Asian": "Southeast Asian", "Indian": "Indian", "Middle_Eastern": "Middle Eastern",
}  # fmt: skip
EXPRESSIONS = {
    "Neutral": "neutral", "Happiness": "happy", "Surprise": "surprised", "Sadness": "sad", "Anger": "angry",
    "Disgust": "disgusted", "Fear": "afraid", "Contempt": "contemptuous",
}  # fmt: skip
#: At most one holds: of a head of hair the annotators name one, or none that they agree on.
HAIR_COLORS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
#: Groups of which exactly one member holds: multiclass tasks.
EXCLUSIVE_GROUPS: dict[str, tuple[str, ...]] = {
    "age": tuple(AGES),
    "race": tuple(RACES),
    "expression": tuple(EXPRESSIONS),
}
#: Members of all exclusive groups.
EXCLUSIVE_MEMBERS = tuple(n for names in EXCLUSIVE_GROUPS.values() for n in names)
CHARACTERISTICS = (
    *_ATTRIBUTES,
    *(Characteristic(n, f"is {years} years old", "face", "age") for n, years in AGES.items()),
    *(Characteristic(n, f"looks {race}", "face", "race") for n, race in RACES.items()),
    *(Characteristic(n, f"looks {word}", "face", "expression") for n, word in EXPRESSIONS.items()),
)
NAMES = tuple(c.name for c in CHARACTERISTICS)
CELEBA = tuple(c.name for c in _ATTRIBUTES)


#: Of each at most one holds: calibrated together, beside "none of these".
AT_MOST_ONE = (HAIR_COLORS, ("Bald", "Straight_Hair", "Wavy_Hair"))
RULES = (
    *(RuleSpec("at_most_one", names, True) for names in AT_MOST_ONE),
    RuleSpec("excludes", ("Bald", "Bangs"), True),
    RuleSpec("excludes", ("No_Beard", "Mustache", "Goatee"), True),
    RuleSpec("excludes", ("Receding_Hairline", "Bangs"), False),
    RuleSpec("excludes", ("No_Beard", "Sideburns", "5_o_Clock_Shadow"), False),
    RuleSpec("excludes", ("Bald", *HAIR_COLORS), True),
    RuleSpec("at_least_one", HAIR_COLORS, False),
    RuleSpec("excludes", ("Bald", "Sideburns"), False),
    RuleSpec("at_least_one", ("No_Beard", "5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns"), False),
    *(RuleSpec("exactly_one", names, True) for names in EXCLUSIVE_GROUPS.values()),
    # What a report must not say in one breath.
    RuleSpec("implies", ("Happiness", "Smiling"), True),
    RuleSpec("excludes", ("Neutral", "Smiling"), True),
    *(RuleSpec("implies", (name, "Young"), True) for name in ("Age_0_2", "Age_3_9", "Age_10_19", "Age_20_29")),
    RuleSpec("excludes", ("Age_60_69", "Young"), True),
    RuleSpec("excludes", ("Age_70", "Young"), True),
    *(
        RuleSpec("excludes", (name, "5_o_Clock_Shadow", "Goatee", "Mustache", "Gray_Hair", "Receding_Hairline"), True)
        for name in ("Age_0_2", "Age_3_9")
    ),
    RuleSpec("implies", ("Age_0_2", "No_Beard"), True),
    RuleSpec("implies", ("Age_3_9", "No_Beard"), True),
)

#: A characteristic is "not visible" while its region covers less of the crop than this.
NEEDS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"), ("hair", 0.004)),
    **dict.fromkeys(("Straight_Hair", "Wavy_Hair"), ("hair", 0.004)),
    **dict.fromkeys(("Mouth_Slightly_Open", "Wearing_Lipstick", "Big_Lips"), ("mouth", 0.0005)),
    **dict.fromkeys(("Big_Nose", "Pointy_Nose"), ("nose", 0.001)),
    **dict.fromkeys(("Bags_Under_Eyes", "Narrow_Eyes"), ("eyes", 0.0002)),
    **dict.fromkeys(("Arched_Eyebrows", "Bushy_Eyebrows"), ("brows", 0.0002)),
}
#: A characteristic is "not visible" while this region covers more of the crop than this.
HIDDEN_BY: dict[str, tuple[str, float]] = dict.fromkeys(("Bald", "Bangs", "Receding_Hairline"), ("hat", 0.04))
#: A characteristic is "not visible" while the close-up finds one of these faults.
COVERED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("Smiling", "Mouth_Slightly_Open", "Wearing_Lipstick", "Big_Lips", "Mustache", "Goatee", "No_Beard",
         "5_o_Clock_Shadow", "Double_Chin"), ("mouth hidden",),
    ),
    **dict.fromkeys(("Bags_Under_Eyes", "Narrow_Eyes", "Eyeglasses"), ("eyes hidden",)),
    **dict.fromkeys(EXPRESSIONS, ("mouth hidden", "eyes hidden")),
}  # fmt: skip
