"""Descriptions as a user gets them, against the labels: how many hold a wrong claim?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from datasets import Sample
from faceinsight import FaceInsight
from faceinsight.language.claims import ClaimChecker, sentences
from faceinsight_models.taxonomy import NAMES
from figures import Figures

QUESTION = "Describe this face."


def against_labels(insight: FaceInsight, samples: Sequence[Sample]) -> Figures:
    """Descriptions with at least one claim that the label denies; claims that something is so, and that it is not,
    apart. What the set does not label is not counted."""
    grounding = ClaimChecker(insight.perception.encoders.specs)
    described = wrong = 0
    claims, denied = {True: 0, False: 0}, {True: 0, False: 0}
    for sample in tqdm(samples, desc="descriptions against labels", mininterval=5):
        for face in insight.perceive(sample.read())[:1]:
            before = sum(denied.values())
            for claim in (c for s in sentences(insight.ask(face, QUESTION).text) for c in grounding.claims(s)):
                label = sample.labels[NAMES.index(claim.name)]
                if not np.isnan(label):
                    claims[claim.value] += 1
                    denied[claim.value] += int((label > 0.5) != claim.value)
            described, wrong = described + 1, wrong + (sum(denied.values()) > before)
    return {
        "descriptions": described,
        "with a wrong claim": wrong,
        "positive claims": claims[True],
        "positive claims wrong": denied[True],
        "negative claims": claims[False],
        "negative claims wrong": denied[False],
    }
