"""Templates of questions that are not yes/no about one characteristic: open ones, choices, counts, comparisons; and
what people say around a question.

`{s}` is the person, `{x}` a concept's words, `{o}` a list of them (`wordings.say`).
"""

from __future__ import annotations

from ..taxonomy import EXPRESSIONS

#: How many faces there are, which the runtime knows.
COUNT_PEOPLE = (
    "How many people are there?", "How many people are in the photo?", "How many faces do you see?",
    "How many faces are there?",
    "How many persons can you see?", "Count the people.", "Count the faces.", "Is there more than one person?",
    "Are there other people in the picture?", "Is {s} alone in the photo?", "Number of people?", "How many are we?",
    "How many humans are in this image?", "How many people can you detect?", "Is anybody else in the photo?",
    "Are there two people?", "Is there only one face?", "How many heads do you see?", "how many ppl",
    "Is there anyone else?",
)  # fmt: skip
#: Colours of hair that no report knows: what it is instead, answers them.
OTHER_COLORS = (
    "red",
    "ginger",
    "auburn",
    "green",
    "blue",
    "purple",
    "pink",
    "orange",
    "white",
    "silver",
    "two-coloured",
)
OTHER_COLOR_QUESTIONS = (
    "Is the hair {x}?", "Does {s} have {x} hair?", "Is {s} a {x} head?", "{x} hair?", "Would you call the hair {x}?",
    "Is it {x} hair that {s} has?", "Is {s} {x} haired?", "Is {s} a {x}?", "Got {x} hair?", "{x}?",
    "Does this person have {x} hair?", "Is the hair of {s} {x}?",
)  # fmt: skip
REDHEAD_QUESTIONS = (
    "Is {s} a redhead?", "redhead?", "Is this a redhead?", "Would you call {s} a redhead?", "Is {s} red-haired?",
    "Is {s} ginger?", "Does {s} have dyed hair?", "Is the hair dyed?",
)  # fmt: skip
HEAD_QUESTIONS = (
    "What is on the head of {s}?", "What is that on the head?", "What's on {s}'s head?", "Is anything on the head?",
    "What does {s} have on the head?", "Is there something on the head of {s}?", "What is {s} wearing on the head?",
)  # fmt: skip
NECK_QUESTIONS = (
    "Is there something around the neck?", "What is around the neck of {s}?", "What does {s} wear around the neck?",
    "Is anything on the neck?", "What hangs around the neck?",
)  # fmt: skip
#: What people say before they ask.
ASIDES = (
    "Hey,", "Now,", "So,", "Please say,", "One more thing:", "Be honest:", "For the record:", "Let me ask:", "Look,",
    "Quick question:", "In the image,", "Can you tell me:", "Well,", "Excuse me,", "Just curious,", "On this picture,",
    "Please,", "OK,", "I am asking you:", "In this image:", "Can you check:", "Hello,", "And", "But", "Question:",
    "Say,", "Here,", "Looking at this face,", "From what you see,", "Could you say:", "Do you know,", "I ask myself:",
)  # fmt: skip
#: And behind it.
AFTERTHOUGHTS = (
    "please",
    "here",
    "right now",
    "in this image",
    "thanks",
    "do you think",
    "in your opinion",
    "pls",
    "or so",
)
AGE_QUESTIONS = (
    "How old is {s}?",
    "What age is {s}?",
    "Guess the age of {s}.",
    "Which age group is {s} in?",
    "How many years old is {s}?",
    "What is the age of {s}?",
    "What is the age group of {s}?",
    "Estimate the age.",
    "What's his age?",
    "What's her age?",
    "Age?",
    "How old does {s} look?",
    "In what decade of life is {s}?",
)
GENDER_QUESTIONS = (
    "What is the gender of {s}?",
    "Is this a man or a woman?",
    "Male or female?",
    "Is it a boy or a girl?",
    "Which sex is {s}?",
    "Is {s} a man or a woman?",
    "What sex is {s}?",
    "Gender?",
)
RACE_QUESTIONS = (
    "What race is {s}?", "What is the ethnicity of {s}?", "What is the skin color?",
    "Which ethnic group does {s} look like?",
    "What is the race of {s}?", "Which ethnicity does {s} have?", "Race?", "What skin color does {s} have?",
)  # fmt: skip
DESCRIBE_QUESTIONS = (
    "Describe this face.", "Describe the face.", "Describe the person.", "What do you see?", "What does {s} look like?",
    "Tell me about this face.", "Give me a description.", "Please describe what you see.",
    "Describe {s} in two sentences.", "Tell me everything you see.", "List everything you see.", "What stands out?",
    "Describe {s}.", "Describe this picture.", "What can you tell me about {s}?", "What is there to see?",
    "Summarize this face.",
    "What do you notice about {s}?", "Can you describe {s}?", "Give me the details of this face.",
    "What are the features of {s}?", "Tell me about {s}.", "Give me a description of {s}.", "Describe {s} in detail.",
    "Describe {s} in a few words.", "Please describe {s}.", "Describe the appearance of {s}.", "Describe the photo.",
    "What does the face of {s} look like?", "What can you say about {s}?", "How would you describe {s}?",
)  # fmt: skip
COLOR_QUESTIONS = (
    "What color is the hair?",
    "What is the hair color?",
    "Which hair color does {s} have?",
    "What color of hair does {s} have?",
    "Hair color?",
    "What colour is {s}'s hair?",
    "What colour is the hair?",
    "What is {s}'s hair colour?",
    "Which colour is the hair of {s}?",
    "What color hair does {s} have?",
    "Is the hair dark or light?",
)
HAIR_QUESTIONS = (
    "What kind of hair does {s} have?",
    "Describe the hair.",
    "What is the hair like?",
    "How does the hair look?",
    "Tell me about the hair.",
    "What about the hair?",
    "What's up with the hair?",
    "What is the hairstyle?",
    "Describe the hair of {s}.",
    "Tell me about the hair of {s}.",
    "What is the hair of {s} like?",
)
STYLE_QUESTIONS = ("Is the hair straight or wavy?", "Is the hair wavy or straight?", "What hair style does {s} have?")
FACIAL_QUESTIONS = (
    "What facial hair does {s} have?",
    "Describe the facial hair.",
    "Is {s} shaved?",
    "Which kind of beard does {s} have?",
    "What kind of beard is that?",
    "Tell me about the beard.",
    "Got any facial fuzz?",
    "What about the facial hair?",
)
WORN_QUESTIONS = (
    "What is {s} wearing?",
    "What does {s} wear?",
    "Which accessories can you see?",
    "Which accessories does {s} wear?",
    "What accessories are there?",
    "Is {s} wearing anything special?",
    "List what {s} is wearing.",
)
MOOD_QUESTIONS = (
    "What is the expression?",
    "What expression does {s} have?",
    "How is the mood?",
    "Describe the expression.",
    "How does {s} feel?",
    "Which emotion does {s} show?",
    "What is the mood of {s}?",
    "What is {s} feeling?",
    "What's the expression of {s}?",
    "What emotion is this?",
    "How does the face look, happy or sad?",
    "What is the facial expression?",
    "What mood is {s} in?",
)
#: One of several: {o} is "a, b or c".
WHICH_TEMPLATES = {
    "wear": (
        "Is {s} wearing {o}?", "Which of these is {s} wearing: {o}?", "{o}?", "Does {s} have {o} on?",
        "Which one can you see on {s}: {o}?",
    ),
    "have": ("Does {s} have {o}?", "Which of these does {s} have: {o}?", "{o}?", "Which one is it: {o}?"),
    "look": ("Does {s} look {o}?", "Which one is it: {o}?", "Is {s} {o}?", "{o}?"),
}  # fmt: skip
COUNT_TEMPLATES = {
    "wear": (
        "How many of these is {s} wearing: {o}?", "How many of these can you see on {s}: {o}?",
        "Count what {s} is wearing of these: {o}.",
    ),
    "have": ("How many of these does {s} have: {o}?", "Count what {s} has of these: {o}."),
}  # fmt: skip
#: Characteristics that people ask for together.
FAMILIES = (
    ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"),
    ("Straight_Hair", "Wavy_Hair"),
    ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie", "Wearing_Lipstick"),
    ("No_Beard", "Mustache", "Goatee", "Sideburns", "5_o_Clock_Shadow"),
    ("Arched_Eyebrows", "Bushy_Eyebrows"),
    ("Bangs", "Receding_Hairline", "Wavy_Hair", "Straight_Hair"),
    ("Big_Nose", "Big_Lips", "High_Cheekbones", "Double_Chin", "Bags_Under_Eyes", "Rosy_Cheeks"),
    tuple(EXPRESSIONS),
)
#: Behind an earlier question.
ELLIPSES = ("And {x}?", "What about {x}?", "How about {x}?", "{x} too?", "And {x}, too?", "Any sign of {x}?")
SURE_QUESTIONS = ("Are you sure?", "Is that certain?", "Really?", "How sure are you?", "Are you certain about that?")
WHERE_QUESTIONS = ("How do you know?", "Where do you see that?", "What makes you think so?", "Why?", "Where?")
#: About two faces.
WHO_TEMPLATES = {
    "wear": ("Who is wearing {x}?", "Which of the two is wearing {x}?", "Who has {x} on?", "Who wears {x}?"),
    "have": ("Who has {x}?", "Which of the two has {x}?", "Which one has {x}?", "Who of them has {x}?"),
    "be": ("Who is {x}?", "Which of the two is {x}?", "Which one is {x}?", "Who of them is {x}?"),
    "look": ("Who looks {x}?", "Which of the two looks {x}?", "Which one seems {x}?", "Who of them looks {x}?"),
}
BOTH_TEMPLATES = {
    "wear": ("Are both wearing {x}?", "Do both wear {x}?", "Do they both have {x} on?"),
    "have": ("Do both have {x}?", "Do they both have {x}?", "Has each of them {x}?"),
    "be": ("Are both {x}?", "Are they both {x}?", "Is each of them {x}?"),
    "look": ("Do both look {x}?", "Do they both look {x}?", "Are both {x}?"),
}
#: About all people of a photo, of which one face is known.
HOW_MANY_TEMPLATES = {
    "wear": ("How many people wear {x}?", "How many people are wearing {x}?", "How many of them have {x} on?"),
    "have": ("How many people have {x}?", "How many of them have {x}?", "How many persons with {x} are there?"),
    "be": ("How many people are {x}?", "How many of them are {x}?"),
    "look": ("How many people look {x}?", "How many of them are {x}?"),
}
COMMON_QUESTIONS = (
    "What do they have in common?", "What is the same?", "How are they alike?", "What do the two share?",
    "In what way are the two faces similar?",
)  # fmt: skip
DIFFERENT_QUESTIONS = (
    "What is different?", "How do they differ?", "Compare the two faces.", "What is the difference between them?",
    "Compare them.",
)  # fmt: skip
