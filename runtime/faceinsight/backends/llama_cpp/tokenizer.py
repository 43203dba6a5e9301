"""Text to tokens and back, by llama.cpp: the LLM's tokenizer, or that of a GGUF without weights."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from ...errors import BundleError, QuestionError
from .bindings import import_llama, llama_version, set_params, silence_log

#: A character that no tokenizer joins with a letter or a mark behind it.
_ANCHOR = "\n"


def as_uncased(question: str) -> str:
    """A question in lower case behind a space: "Hat?", "hat" and "HAT" become the tokens that "a hat" has. A byte-pair
    encoding gives a word other tokens at the start of a text, and those are rare in what an encoder learns from."""
    return f" {question.lower()}"


class Tokenizer:
    """The tokenizer of a loaded GGUF. It lives as long as whoever loaded the model.

    Attributes:
        n_vocab: how many tokens there are.
    """

    def __init__(self, model: Any, *, follow: str, max_question: int) -> None:
        """Of a model that is loaded.

        Args:
            model: llama.cpp's handle of the model.
            follow: what stands between an earlier question and the one behind it.
            max_question: tokens that a question may have.
        """
        self._c: Any = import_llama()
        self._vocab = self._c.llama_model_get_vocab(model)
        self.n_vocab: int = self._c.llama_vocab_n_tokens(self._vocab)
        # SentencePiece puts a space before a text; within a prompt there must be none.
        self._anchor = self._tokenize(_ANCHOR, special=False)
        self._follow, self._max_question = self.encode(follow, special=True), max_question

    def encode(self, text: str, *, special: bool = False, at_start: bool = False) -> list[int]:
        """Token ids of a part of a prompt.

        Args:
            text: the part.
            special: control tokens in it are meant; False for anything a user typed, where they stay text.
            at_start: no text stands before it.

        Raises:
            QuestionError: it could not be tokenized.
        """
        if at_start or not text:
            return self._tokenize(text, special=special)
        anchored = self._tokenize(_ANCHOR + text, special=special)
        n = len(self._anchor)
        return anchored[n:] if anchored[:n] == self._anchor else self._tokenize(text, special=special)

    def encode_question(self, question: str, after: str | None = None, *, uncased: bool = False) -> list[int]:
        """Token ids of a question, behind an earlier one if given; of both in one case (`uncased`) if wanted.

        Raises:
            QuestionError: it is empty, too long, or no string.
        """
        for given in (question, "" if after is None else after):
            if not isinstance(given, str):
                raise QuestionError(f"the question is of type {type(given).__name__}; expected str, one at a time")
        text = " ".join(question.split())
        if text.isupper():
            # Capitals are other tokens, which no training showed.
            text = text.lower()
        if not text:
            raise QuestionError("the question is empty")
        form = as_uncased if uncased else str
        token_ids = self.encode(form(text))
        if after is not None:
            token_ids = [*self.encode(form(" ".join(after.split()))), *self._follow, *token_ids]
        if len(token_ids) > self._max_question:
            raise QuestionError(f"the question has {len(token_ids)} tokens; at most {self._max_question}")
        return token_ids

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in an answer; nothing for a control token."""
        out = ctypes.create_string_buffer(256)
        n = self._c.llama_token_to_piece(self._vocab, token, out, len(out), 0, False)
        return out.raw[:n] if n > 0 else b""

    def is_eog(self, token: int) -> bool:
        """Does the model end a generation with it?"""
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        out = (ctypes.c_int32 * (len(data) + 8))()
        n = self._c.llama_tokenize(self._vocab, data, len(data), out, len(out), False, special)
        if n < 0:
            raise QuestionError(f"the text could not be tokenized ({len(data)} bytes)")
        return list(out[:n])


class GgufTokenizer(Tokenizer):
    """The tokenizer of a GGUF without weights: the question encoder's, where the LLM has another one."""

    _model: Any = None

    def __init__(self, path: Path, *, follow: str, max_question: int) -> None:
        """Open a GGUF.

        Args:
            path: the file.
            follow: what stands between an earlier question and the one behind it.
            max_question: tokens that a question may have.

        Raises:
            BundleError: llama.cpp cannot read it.
        """
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
