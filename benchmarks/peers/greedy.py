"""Greedy decoding with transformers, as peers of both kinds of bundle use it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any

#: Tokens of an answer. Random weights do not end one by themselves.
TOKENS = 8


def cache_name(model: Any) -> str:
    """What a model of transformers calls its KV cache, as an argument and in its output."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def shorten(past: Any, length: int) -> None:
    """Leave the first tokens of a KV cache. transformers 5 takes what goes away, as a negative number."""
    if more := past.get_seq_length() - length:
        past.crop(-more)


class Greedy:
    """Greedy decoding with a causal LM of transformers; `_first` gives its output behind a question."""

    _model: Any
    #: Tokens of an answer.
    count = TOKENS

    @cached_property
    def _cache(self) -> str:
        """Looked up once: the calls are timed."""
        return cache_name(self._model)

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
                out = self._model(input_ids=token, use_cache=True, **{self._cache: out[self._cache]})

    def choose(self, picture: Any, questions: list[str]) -> None:
        import torch

        with torch.inference_mode():
            for question in questions:
                self._first(picture, question).logits[0, -1].softmax(-1)
