"""Greedy decoding with transformers, as peers of both kinds of bundle use it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

#: Tokens of an answer. Random weights do not end one by themselves.
TOKENS = 8


class Greedy:
    """Greedy decoding with a causal LM of transformers; `_first` gives its output behind a question."""

    _model: Any
    #: Tokens of an answer.
    count = TOKENS

    def _first(self, picture: Any, question: str) -> Any:
        raise NotImplementedError

    def tokens(self, picture: Any, question: str) -> Iterable[float]:
        import torch

        times = []
        with torch.inference_mode():
            out = self._first(picture, question)
            while True:
                token = out.logits[:, -1:].argmax(-1)
                times.append(time.perf_counter())
                if len(times) == self.count:
                    return times
                out = self._model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)

    def choose(self, picture: Any, questions: list[str]) -> None:
        import torch

        with torch.inference_mode():
            for question in questions:
                self._first(picture, question).logits[0, -1].softmax(-1)
