"""From a bundle and a device to the parts that answer: which file becomes which part, and what each needs of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter

from .backends.device import Device
from .backends.llama_cpp.loader import load_llm
from .backends.llama_cpp.tokenizer import GgufTokenizer, Tokenizer
from .bundle.bundle import Bundle
from .bundle.manifest import Manifest
from .cache import FaceCache
from .language.generation import AnswerGenerator
from .language.question_encoder import QuestionEncoder
from .language.spelling import Spelling
from .perception.pipeline import Perception
from .perception.vision_encoder import VisionEncoder


@dataclass(frozen=True, slots=True)
class Parts:
    """What answers: a photo becomes faces by `perception`, a question a query by `questions`, both an answer by
    `language`. vision: makes the LLM's image tokens, where the bundle has a vision encoder of its own."""

    manifest: Manifest
    perception: Perception
    questions: QuestionEncoder
    language: AnswerGenerator
    vision: VisionEncoder | None


def load_parts(
    bundle: Bundle,
    device: Device,
    *,
    allow: Sequence[str],
    deny: Sequence[str],
    cache_bytes: int,
    forget_after: float | None,
) -> Parts:
    """Load a verified bundle; the arguments are those of `FaceInsight.load`."""
    device.prepare([bundle.file(name) for name in bundle.graph_files])
    spec = bundle.manifest.llm
    # Image tokens are small beside the KV cache that is made of them.
    half = cache_bytes // 2
    # The largest graph by itself: for a moment it takes twice its size.
    vision = _vision(bundle, device, FaceCache(half, forget_after))
    with ThreadPoolExecutor(1) as pool:
        # llama.cpp reads its file while ONNX Runtime optimizes the small graphs.
        llm = pool.submit(load_llm, bundle.file(spec.file), device, n_embd=spec.width, n_ctx=spec.context)
        perception = Perception.load(bundle, device, allow=allow, deny=deny)
        language = AnswerGenerator(
            llm.result(),
            spec,
            encode_face=vision.encode_face if vision else attrgetter("tokens"),
            prefix_cache=FaceCache(half if vision else cache_bytes, forget_after),
        )
    questions = _questions(bundle, device, language.tokenizer, perception)
    return Parts(bundle.manifest, perception, questions, language, vision)


def _vision(bundle: Bundle, device: Device, cache: FaceCache) -> VisionEncoder | None:
    spec = bundle.manifest.vision
    return VisionEncoder(spec, device.session(bundle.file(spec.file)), cache) if spec else None


def _questions(bundle: Bundle, device: Device, llm: Tokenizer, perception: Perception) -> QuestionEncoder:
    spec, limits = bundle.manifest.question, bundle.manifest.llm
    tokenizer = llm
    if spec.vocabulary:
        path, follow = bundle.file(spec.vocabulary), limits.prompt.follow
        tokenizer = GgufTokenizer(path, follow=follow, max_question=limits.max_question)
    correct: Callable[[str], str] = Spelling.read(bundle.file(spec.words)).correct if spec.words else str
    session = device.session(bundle.file(spec.file))
    knowledge = perception.encoders.knowledge_tokens()
    return QuestionEncoder(bundle.manifest, session, tokenizer, llm, perception.characteristic_ids, knowledge, correct)
