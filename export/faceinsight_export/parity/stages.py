"""Parity gate: every stage of the bundle against the torch modules it came from, on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.loader import load_llm
from faceinsight.backends.llama_cpp.model import EXACT, Llm
from faceinsight.backends.llama_cpp.tokenizer import Tokenizer
from faceinsight.bundle.specs import LlmSpec

from .reference import logits


class ParityError(RuntimeError):
    """A stage of the bundle does not reproduce its reference."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One comparison: worst cosine over rows, and the error that is gated.

    The error is the largest one relative to the reference's largest value; where weights are quantized on purpose, the
    root mean square relative to the reference's (one unlucky logit among thousands says little there).
    """

    name: str
    cosine: float
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Within tolerance?"""
        return bool(np.isfinite(self.error)) and self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        figures = f"cosine {self.cosine:.6f}  error {self.error:.2e}  tolerance {self.tolerance:.0e}"
        return f"{self.name:<18} {figures}  {verdict}"


def compare(name: str, reference: NDArray[Any], found: NDArray[Any], tolerance: float, *, rms: bool = False) -> Stage:
    """Stage result of two arrays of one shape; `rms` gates the root mean square error.

    For integer arrays the error is the share of unequal values.
    """
    if reference.shape != found.shape:
        raise ValueError(f"{name}: reference has shape {reference.shape}, bundle {found.shape}")
    if reference.dtype.kind in "ui":
        return Stage(name, 1.0, float((reference != found).mean()), tolerance)
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (reference, found))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = float(((a * b).sum(1) / np.maximum(norms, 1e-12)).min())
    size = np.linalg.norm if rms else lambda x: np.abs(x).max()
    return Stage(name, cosine, float(size(a - b) / max(size(a), 1e-12)), tolerance)


def graph_stages(
    module: Any, path: Path, inputs: dict[str, NDArray[Any]], outputs: Sequence[str], tolerance: float, device: Device
) -> list[Stage]:
    """Run torch and ONNX Runtime on the same inputs; one stage per output."""
    found = device.session(path).run(list(outputs), inputs)
    with torch.no_grad():
        reference = module(*(torch.from_numpy(v) for v in inputs.values()))
    reference = reference if isinstance(reference, tuple) else (reference,)
    return [compare(n, r.numpy(), f, tolerance) for n, r, f in zip(outputs, reference, found, strict=True)]


class LlmProbe:
    """The runtime's LLM and tokenizer, with the logits at every position: the gate tests the code that will run."""

    def __init__(self, llm: Llm, spec: LlmSpec) -> None:
        """Of a loaded model, which is closed with this object."""
        self.llm = llm
        self.tokenizer = Tokenizer(llm.model, follow=spec.prompt.follow, max_question=spec.max_question)

    def logits(self, tokens: list[int], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(len(tokens), n_vocab) after each of `tokens`, which follow the embedding embeddings."""
        self.llm.clear()
        pos, out = self.llm.decode([embeddings] if len(embeddings) else [], 0), []
        for token in tokens:
            pos = self.llm.decode([[token]], pos)
            out.append(self.llm.logits().copy())
        return np.stack(out)

    def start(self) -> list[int]:
        """What the file says goes before a text: the token that begins it, or nothing."""
        vocabulary = llama_cpp.llama_model_get_vocab(self.llm.model)
        return [llama_cpp.llama_vocab_bos(vocabulary)] if llama_cpp.llama_vocab_get_add_bos(vocabulary) else []

    def greedy(self, tokens: list[int], count: int, embeddings: NDArray[np.float32] | None = None) -> list[int]:
        """The `count` likeliest next tokens after the embeddings, if any, and `tokens`, each given those before it."""
        self.llm.clear()
        pos, out, block = 0 if embeddings is None else self.llm.decode([embeddings], 0), [], tokens
        for _ in range(count):
            pos = self.llm.decode([block], pos)
            block = [int(self.llm.logits().argmax())]
            out += block
        return out

    def __enter__(self) -> LlmProbe:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.llm.close()


def llm_stages(
    model: Any,
    tokenizer: Any,
    gguf: Path,
    spec: LlmSpec,
    embeddings: NDArray[np.float32],
    texts: Sequence[str],
    tolerance: float,
    device: Device,
    *,
    rms: bool = False,
) -> list[Stage]:
    """Tokens and logits at each position, after injected embeddings, for each text."""
    stages = []
    llm = load_llm(gguf, device, n_embd=spec.width, n_ctx=spec.context, parameters=EXACT)
    with LlmProbe(llm, spec) as language:
        for i, text in enumerate(texts):
            ids = tokenizer.encode(text).ids
            found = language.tokenizer.encode(text)
            if found != ids:
                raise ValueError(f"tokens of {text!r}: reference {ids}, GGUF {found}")
            reference = logits(model, ids, embeddings)
            stages.append(compare(f"llm logits {i}", reference, language.logits(ids, embeddings), tolerance, rms=rms))
    return stages
