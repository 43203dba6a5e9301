"""What is said, measured: does the LLM agree with the head, is it right, what does it see, what does it claim?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets import Sample
from faceinsight import Face, FaceInsight
from faceinsight.language.claims import ClaimChecker, sentences
from faceinsight.types import NO, STATES, YES
from faceinsight_models.dialogue.answers import compound_answer, describe
from faceinsight_models.dialogue.concepts import CONCEPTS, Concept
from faceinsight_models.dialogue.plain import misread, plain_questions
from faceinsight_models.dialogue.turns import compound
from faceinsight_models.dialogue.wordings import closed_question, compound_question
from faceinsight_models.taxonomy import NAMES

Figures = dict[str, Any]

OPENINGS = {"Yes": "yes", "No": "no", "I am not sure": "unsure", "I cannot tell": "not visible"}


def said(text: str, concept: Concept, grounding: ClaimChecker) -> str | None:
    """State that an answer to a yes/no question speaks, by its opening or else by what it claims; None: neither."""
    opening = next((s for start, s in OPENINGS.items() if text.startswith(start)), None)
    if opening:
        return opening
    claims = [c.value != concept.inverted for c in grounding.claims(text) if c.name == concept.name]
    return ("yes" if claims[0] else "no") if claims else None


def own_words(insight: FaceInsight, face: Face, question: str) -> str:
    """What the LLM says before anything is checked."""
    return "".join(map(str, insight.unchecked(face, question))).strip()


def contradictions(grounding: ClaimChecker, text: str, face: Face) -> int:
    """Sentences that say what the report does not."""
    return sum(grounding.violates(s, [face.labels]) for s in sentences(text))


def understood(insight: FaceInsight, count: int) -> Figures:
    """Yes/no questions in wordings that training never saw: does the question encoder name what is asked about?"""
    rng, names = np.random.default_rng(13), [c.name for c in insight.perception.encoders.specs]
    concepts = [c for c in CONCEPTS if c.name in names]
    exact = among = 0
    for _ in range(count):
        concept = concepts[int(rng.integers(len(concepts)))]
        found = {names[i] for i in insight.questions.label_ids(closed_question(rng, concept, heldout=True))}
        exact, among = exact + (found == {concept.name}), among + (concept.name in found)
    return {"questions": count, "named exactly": exact / count, "named among others": among / count}


def plain(insight: FaceInsight) -> Figures:
    """Questions as people first ask them: which of them are not read as what they ask?"""
    names = [c.name for c in insight.perception.encoders.specs]

    def read(question: str) -> list[str] | str:
        parsed = insight.questions.parse(question)
        return parsed.declined or [names[i] for i in parsed.label_ids]

    wrong = misread(read, names)
    return {"questions": len(plain_questions()), "misread": len(wrong), "which": wrong}


def closed_questions(insight: FaceInsight, samples: Sequence[Sample], count: int) -> Figures:
    """Yes/no questions in wordings that training never saw: does the LLM agree with the head, and is it right?"""
    rng, grounding = np.random.default_rng(11), ClaimChecker(insight.perception.encoders.specs)
    agree: dict[str, list[bool]] = {s: [] for s in STATES}
    right: dict[str, list[bool]] = {"head": [], "LLM": [], "LLM's own words": []}
    own_agree: list[bool] = []
    own_contradict = contradict = 0
    wrong: list[Figures] = []
    with tqdm(total=count, desc="questions", mininterval=5) as bar:
        while bar.n < count:
            sample = samples[int(rng.integers(len(samples)))]
            faces = insight.perceive(sample.read())
            if not faces:
                continue
            face = faces[0]
            states = {x.name: STATES.index(x.state) for x in face.labels}
            for _ in range(5):
                concept = CONCEPTS[rng.integers(len(CONCEPTS))]
                state = concept.state(states)
                # Two thirds of all states are "no": without the second draw a parrot would score well.
                if state is None or (state == NO and rng.random() < 0.6) or bar.n >= count:
                    continue
                question, expected = closed_question(rng, concept, heldout=True), STATES[state]
                free, text = own_words(insight, face, question), insight.ask(face, question).text
                own_contradict += bool(contradictions(grounding, free, face))
                contradict += bool(contradictions(grounding, text, face))
                own_agree.append(said(free, concept, grounding) == expected)
                agree[expected].append(said(text, concept, grounding) == expected)
                if said(free, concept, grounding) != expected and len(wrong) < 40:
                    wrong.append({"question": question, "head": expected, "own words": free, "answer": text})
                label = sample.labels[NAMES.index(concept.name)]
                if state in (YES, NO) and not np.isnan(label):
                    truth = "yes" if (label > 0.5) != concept.inverted else "no"
                    spoken = {
                        "head": expected,
                        "LLM": said(text, concept, grounding),
                        "LLM's own words": said(free, concept, grounding),
                    }
                    for who, answer in spoken.items():
                        right[who].append(answer == truth)
                bar.update()
    every = [v for values in agree.values() for v in values]
    return {
        "questions": len(every),
        "agreement with the head": float(np.mean(every)),
        "agreement of the LLM's own words": float(np.mean(own_agree)),
        "own words that contradict the report": own_contradict / len(every),
        "answers that contradict the report": contradict,
        "agreement by state": {s: {"n": len(v), "agreement": float(np.mean(v))} for s, v in agree.items() if v},
        "accuracy against labels (where the head says yes or no)": {k: float(np.mean(v)) for k, v in right.items()},
        "disagreements": wrong,
    }


def compound_questions(insight: FaceInsight, samples: Sequence[Sample], count: int) -> Figures:
    """Two or three yes/no questions in one, in wordings that training never saw: is each of them answered, and are the
    words those that the findings support?"""
    rng, grounding = np.random.default_rng(14), ClaimChecker(insight.perception.encoders.specs)
    names = [c.name for c in insight.perception.encoders.specs]
    named = exact = whole = contradict = 0
    wrong: list[Figures] = []
    with tqdm(total=count, desc="compound questions", mininterval=5) as bar:
        while bar.n < count:
            for face in insight.perceive(samples[int(rng.integers(len(samples)))].read())[:1]:
                states = {x.name: STATES.index(x.state) for x in face.labels}
                concepts = compound(rng, states)
                if any(c.name not in states for c in concepts):
                    continue
                question = compound_question(rng, concepts, heldout=True)
                expected = compound_answer(concepts, [c.state(states) for c in concepts])
                free, text = own_words(insight, face, question), insight.ask(face, question).text
                named += {names[i] for i in insight.questions.label_ids(question)} == {c.name for c in concepts}
                exact += free == expected
                claimed = {c.name for s in sentences(text) for c in grounding.claims(s)}
                whole += claimed == {c.name for c in concepts if c.state(states) in (YES, NO)}
                contradict += bool(contradictions(grounding, text, face))
                if free != expected and len(wrong) < 20:
                    wrong.append({"question": question, "expected": expected, "own words": free, "answer": text})
                bar.update()
    return {
        "questions": count,
        "named exactly": named / count,
        "own words exactly as the findings support": exact / count,
        "answers that speak of all that is certain, and of nothing else": whole / count,
        "answers that contradict the report": contradict,
        "others": wrong,
    }


def ablation(insight: FaceInsight, samples: Sequence[Sample], count: int) -> Figures:
    """What each kind of token tells the LLM: accuracy against labels on yes/no questions. Each characteristic is asked
    of as many faces that have it as of such that do not, so whoever does not look is right half of the time."""
    rng, grounding = np.random.default_rng(12), ClaimChecker(insight.perception.encoders.specs)
    on = {c.name for c in insight.perception.encoders.specs}
    labels = np.stack([s.labels for s in samples])
    rows: dict[tuple[int, bool], NDArray[np.int64]] = {}
    for n, c in enumerate(CONCEPTS):
        column = labels[:, NAMES.index(c.name)]
        if c.name in on:
            there, stated = (column > 0.5) != c.inverted, ~np.isnan(column)
            rows |= {(n, yes): np.flatnonzero(stated & (there == yes)) for yes in (True, False)}
    known = [n for n in range(len(CONCEPTS)) if all(len(rows.get((n, yes), ())) for yes in (True, False))]
    cases: list[tuple[Face, Concept, str, bool]] = []
    while len(cases) < count:
        number, wanted = int(rng.choice(known)), len(cases) % 2 == 0
        faces = insight.perceive(samples[int(rng.choice(rows[number, wanted]))].read())
        if faces:
            concept = CONCEPTS[number]
            cases.append((faces[0], concept, closed_question(rng, concept, heldout=True), wanted))
    image = insight.manifest.encoder.image_tokens
    arms = {
        "image, region and knowledge tokens": "irk",
        "without knowledge tokens": "ir",
        "without image tokens": "rk",
        "without region tokens": "ik",
        "image tokens alone": "i",
        "region tokens alone": "r",
        "knowledge tokens alone": "k",
        "no face tokens": "",
    }
    out: Figures = {"questions": count}
    for arm, kept in arms.items():
        right = []
        for face, concept, question, wanted in tqdm(cases, desc=arm, mininterval=5):
            tokens = np.concatenate(
                [
                    face.tokens[:image] if "i" in kept else face.tokens[:0],
                    face.tokens[image:] if "r" in kept else face.tokens[:0],
                ]
            )
            other = dataclasses.replace(face, tokens=tokens, key=face.key + arm)
            query = insight.questions.query(question, (other,))
            if "k" not in kept:
                query = dataclasses.replace(query, findings=[insight.questions.findings(other, np.empty(0, np.int64))])
            text = "".join(map(str, insight.language.generate(query))).strip()
            right.append(said(text, concept, grounding) == ("yes" if wanted else "no"))
        out[arm] = float(np.mean(right))
    return out


def descriptions(insight: FaceInsight, samples: Sequence[Sample]) -> Figures:
    """Free descriptions: what the LLM's own words claim against the head, and what is let out against the labels."""
    grounding, question = ClaimChecker(insight.perception.encoders.specs), "Describe this face."
    count = exact = own_contradict = contradict = claims = denied = 0
    examples: list[Figures] = []
    for sample in tqdm(samples, desc="descriptions", mininterval=5):
        for face in insight.perceive(sample.read())[:1]:
            free, text = own_words(insight, face, question), insight.ask(face, question).text
            (described,) = insight.questions.query(question, (face,)).faces
            expected = describe({x.name: STATES.index(x.state) for x in described.labels})
            count, exact = count + 1, exact + (free == expected)
            own_contradict += bool(contradictions(grounding, free, face))
            contradict += bool(contradictions(grounding, text, face))
            if free != expected and len(examples) < 10:
                examples.append({"expected": expected, "own words": free, "answer": text})
            for claim in (c for s in sentences(text) for c in grounding.claims(s)):
                label = sample.labels[NAMES.index(claim.name)]
                if not np.isnan(label):
                    claims, denied = claims + 1, denied + ((label > 0.5) != claim.value)
    return {
        "descriptions": count,
        "own words exactly as the findings support": exact / max(1, count),
        "own words that contradict the report": own_contradict / max(1, count),
        "descriptions that contradict the report": contradict,
        "claims checked against labels": claims,
        "claims that the labels contradict": denied / max(1, claims),
        "others": examples,
    }
