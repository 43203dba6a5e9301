"""Is what can be answered answered, and what cannot declined, and for the right reason?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from faceinsight import FaceInsight
from faceinsight_models.dialogue.outside import outside_question
from faceinsight_models.train.question import heldout_question

Figures = dict[str, Any]


def declined(insight: FaceInsight, count: int) -> Figures:
    """`count` questions that a report answers and as many that none does, in templates and words that training never
    used. What is switched off counts as answerable: it is declined as such."""
    rng, read = np.random.default_rng(17), insight.questions.parse
    refused = Counter(
        r for _ in range(count) if (r := read(heldout_question(rng)).declined) not in (None, "switched off")
    )
    answered: list[Figures] = []
    reasons = Counter[bool]()
    for _ in range(count):
        kind, question = outside_question(rng, heldout=True)
        batch = read(question)
        if batch.declined is None:
            answered.append({"question": question, "kind": kind, "as": batch.kind})
        else:
            reasons[batch.declined == kind] += 1
    return {
        "questions": count,
        "answerable and declined": refused.total() / count,
        "declined as": dict(refused.most_common()),
        "not answerable and answered": len(answered) / count,
        "declined for the right reason": reasons[True] / max(1, reasons.total()),
        "answered": answered[:30],
    }
