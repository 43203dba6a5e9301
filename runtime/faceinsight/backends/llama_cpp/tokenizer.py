"""Text to tokens and back, by llama.cpp: the LLM's vocabulary, or one on its own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from ...errors import BundleError, QuestionError
from .bindings import import_llama, llama_version, set_params, silence_log

#: A character that no tokenizer joins with a letter or a mark behind it.
_ANCHOR = "\n"


class Vocabulary:
    """The vocabulary of a loaded GGUF. It lives as long as whoever loaded the model."""

    def __init__(self, model: Any, *, follow: str, max_question: int) -> None:
        """model: llama.cpp's pointer; follow: what stands between an earlier question and the one behind it."""
        self._c: Any = import_llama()
        self._vocabulary = self._c.llama_model_get_vocab(model)
        self.size: int = self._c.llama_vocab_n_tokens(self._vocabulary)
        # SentencePiece puts a space before a text; within a prompt there must be none.
        self._anchor = self._tokens(_ANCHOR, False)
        self._follow, self._max_question = self.tokens(follow, special=True), max_question

    def tokens(self, text: str, *, special: bool = False, first: bool = False) -> list[int]:
        """Tokens of a part of a prompt. Raises QuestionError.

        special: control tokens in it are meant; False for anything a user typed, where they stay text.
        first: no text stands before it.
        """
        if first or not text:
            return self._tokens(text, special)
        anchored = self._tokens(_ANCHOR + text, special)
        count = len(self._anchor)
        return anchored[count:] if anchored[:count] == self._anchor else self._tokens(text, special)

    def _tokens(self, text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        out = (ctypes.c_int32 * (len(data) + 8))()
        count = self._c.llama_tokenize(self._vocabulary, data, len(data), out, len(out), False, special)
        if count < 0:
            raise QuestionError(f"the text could not be tokenised ({len(data)} bytes)")
        return list(out[:count])

    def read(self, question: str, after: str | None = None) -> list[int]:
        """Tokens of a question, behind an earlier one if given. Raises QuestionError for an empty or too long one."""
        for given in (question, "" if after is None else after):
            if not isinstance(given, str):
                raise QuestionError(f"the question is of type {type(given).__name__}; expected str, one at a time")
        text = " ".join(question.split())
        if text.isupper():
            # Capitals are other tokens, which nobody taught.
            text = text.lower()
        if not text:
            raise QuestionError("the question is empty")
        tokens = self.tokens(text)
        if after is not None:
            tokens = [*self.tokens(" ".join(after.split())), *self._follow, *tokens]
        if len(tokens) > self._max_question:
            raise QuestionError(f"the question has {len(tokens)} tokens; at most {self._max_question}")
        return tokens

    def bytes(self, token: int) -> bytes:
        """What a token stands for in an answer; nothing for a control token."""
        out = ctypes.create_string_buffer(256)
        count = self._c.llama_token_to_piece(self._vocabulary, token, out, len(out), 0, False)
        return out.raw[:count] if count > 0 else b""

    def ends(self, token: int) -> bool:
        """Does the model itself end a text with it?"""
        return bool(self._c.llama_vocab_is_eog(self._vocabulary, token))


class VocabularyFile(Vocabulary):
    """A GGUF with a vocabulary and no weights: how the question encoder reads, beside an LLM that reads otherwise."""

    _model: Any = None

    def __init__(self, path: Path, *, follow: str, max_question: int) -> None:
        c = import_llama()
        silence_log(c)
        params = set_params(c.llama_model_default_params(), {"vocab_only": True})
        self._model = c.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise BundleError(f"{path} does not load in llama.cpp as a vocabulary (llama-cpp-python {llama_version()})")
        super().__init__(self._model, follow=follow, max_question=max_question)

    def close(self) -> None:
        """Free it."""
        if self._model:
            self._c.llama_model_free(self._model)
            self._model = None

    def __del__(self) -> None:
        self.close()
