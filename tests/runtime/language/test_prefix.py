"""What is kept of faces: asked again they answer at once, never about another face, and nothing stays for long."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from faceinsight import Face, FaceInsight, FaceInsightError, PolicyError, RequestError
from faceinsight.backends.llama_cpp.embeddings import Embeddings
from faceinsight.backends.llama_cpp.model import MAX_PARALLEL_SEQS
from faceinsight.cache import FaceCache

QUESTIONS = ("Is she smiling?", "What color is the hair?", "Is she wearing glasses?")
#: One more than a batch of questions holds, of different lengths.
MANY = [
    f"{q}{' Please.' * (i % 4)}" for i, q in zip(range(MAX_PARALLEL_SEQS + 1), itertools.cycle(QUESTIONS), strict=False)
]


@pytest.fixture(scope="module")
def insight(tiny: FaceInsight) -> FaceInsight:
    """What is cached does not depend on what the weights say."""
    return tiny


@pytest.fixture(scope="module")
def face(tiny_face: Face) -> Face:
    return tiny_face


def kept(insight: FaceInsight) -> FaceCache:
    return insight.language.prefix.cache


@pytest.fixture(scope="module")
def faces(insight, photo):
    """Four faces that differ little: the same photo, darker each time."""
    out = []
    for step in range(4):
        (found,) = insight.perceive((photo * (1 - 0.1 * step)).astype(np.uint8))
        out.append(found)
    return out


def said(insight, face, question):
    return [(p.text, p.probability) for p in insight.stream(face, question)]


@pytest.fixture
def looks(insight, monkeypatch):
    """Counts how often the LLM is shown a face."""
    seen = []
    prefix = insight.language.prefix
    encode = prefix._encode_face
    monkeypatch.setattr(prefix, "_encode_face", lambda face: seen.append(face.key) or encode(face))
    return seen


def test_the_least_recently_used_leaves_and_is_overwritten():
    now = [0.0]
    cache = FaceCache(100, 10, clock=lambda: now[0])
    arrays = {k: np.full(40, 7, np.uint8) for k in "abc"}
    cache.put("a", arrays["a"])
    cache.put("b", arrays["b"])
    assert cache.get("a") is arrays["a"]
    cache.put("c", arrays["c"])
    assert (cache.bytes, len(cache), "b" in cache) == (80, 2, False)
    assert not arrays["b"].any()
    assert arrays["a"].all()
    cache.put("d", np.ones(101, np.uint8))
    assert ("d" in cache, cache.bytes) == (False, 80)
    now[0] = 9
    assert cache.get("c") is not None
    now[0] = 11
    cache.expire()
    assert ("a" in cache, "c" in cache) == (False, True)
    assert not arrays["a"].any()
    cache.wipe()
    assert (cache.bytes, cache.get("c")) == (0, None)
    assert not arrays["c"].any()


def test_a_second_question_and_an_earlier_face_cost_no_look(insight, faces, looks):
    insight.forget()
    fresh = {}
    for face, question in itertools.product(faces, QUESTIONS):
        fresh[face.key, question] = said(insight, face, question)
    assert looks == [f.key for f in faces]
    # Back and forth: the same to the last bit, and no look more.
    rng = np.random.default_rng(0)
    for _ in range(40):
        face, question = faces[rng.integers(4)], QUESTIONS[rng.integers(3)]
        assert said(insight, face, question) == fresh[face.key, question]
    assert len(looks) == 4
    assert len({tuple(p for _, p in fresh[f.key, QUESTIONS[1]]) for f in faces}) == 4, "the faces are told apart"
    insight.forget()
    assert said(insight, faces[2], QUESTIONS[0]) == fresh[faces[2].key, QUESTIONS[0]]


def test_any_bit_of_what_is_seen_makes_another_key(insight, photo, face):
    changed = photo.copy()
    y, x = (int(v) for v in face.landmarks[2][::-1])
    changed[y, x] ^= 1
    (other,) = insight.perceive(changed)
    assert other.key != face.key
    key = insight.perception.fingerprint
    seen = np.zeros((2, 8, 3), np.uint8)
    keys = [key(seen), key(seen.reshape(4, 4, 3)), key(seen.astype(np.int8)), key(seen + np.uint8(1))]
    assert len(set(keys)) == 4


def test_prepared_before_the_question_comes(insight, face, looks):
    insight.forget()
    insight.prepare(face)
    assert looks == [face.key]
    insight.ask(face, QUESTIONS[0])
    assert looks == [face.key]


def test_two_faces_are_not_one(insight, faces, looks):
    insight.forget()
    one, other = faces[:2]
    insight.ask(one, QUESTIONS[0])
    both = said(insight, (one, other), "Who is smiling?")
    insight.ask(other, QUESTIONS[0])
    assert said(insight, (one, other), "Who is smiling?") == both
    assert said(insight, (other, one), "Who is smiling?")
    assert looks == [f.key for f in (one, one, other, other, other, one)]


def test_without_memory_nothing_is_kept_and_answers_are_the_same(insight, faces, tiny_bundle):
    with FaceInsight.load(tiny_bundle, device="cpu", cache_mb=0) as poor:
        for face in (*faces[:2], *faces[:2]):
            assert said(poor, face, QUESTIONS[1]) == said(insight, face, QUESTIONS[1])
        assert (len(kept(poor)), kept(poor).bytes) == (0, 0)


def test_forget_leaves_no_trace(insight, faces):
    for face in faces[:2]:
        insight.ask(face, QUESTIONS[0])
    state = kept(insight).get(faces[0].key)
    assert state is not None
    assert state.any()
    insight.forget()
    assert not state.any()
    assert len(kept(insight)) == 0
    # Nothing is left in llama.cpp's own cache: an empty conversation is all that can be saved of it.
    assert len(insight.language.llm.save()) < 100


def test_faces_are_forgotten_in_time(face, tiny_bundle):
    with FaceInsight.load(tiny_bundle, device="cpu", forget_after=0.3) as brief:
        first = said(brief, face, QUESTIONS[0])
        deadline = time.monotonic() + 20
        while brief.language.prefix.key and time.monotonic() < deadline:
            time.sleep(0.05)
        assert brief.language.prefix.key is None
        assert not brief._expiry.is_running, "nothing is kept: nothing is waited for"
        assert said(brief, face, QUESTIONS[0]) == first
    with pytest.raises(RequestError, match="forget_after"):
        FaceInsight.load(tiny_bundle, forget_after=0)


def test_an_old_face_is_forgotten_while_another_is_asked(faces, tiny_bundle):
    with FaceInsight.load(tiny_bundle, device="cpu", forget_after=2) as brief:
        brief.prepare(faces[0])
        brief.prepare(faces[1])
        assert faces[0].key in kept(brief)
        deadline = time.monotonic() + 30
        while faces[0].key in kept(brief) and time.monotonic() < deadline:
            brief.prepare(faces[1])
            time.sleep(0.02)
        assert faces[0].key not in kept(brief)
        assert brief.language.prefix.key == faces[1].key


def test_wiped_while_it_answers_it_says_so_or_answers_right(insight, face):
    expected = said(insight, face, QUESTIONS[1])
    done = threading.Event()

    def wipe():
        while not done.wait(0.003):
            insight.forget()

    wiper = threading.Thread(target=wipe)
    wiper.start()
    interrupted = 0
    try:
        for _ in range(30):
            try:
                assert said(insight, face, QUESTIONS[1]) == expected
            except RequestError:
                interrupted += 1
    finally:
        done.set()
        wiper.join()
    assert interrupted


def test_after_llama_cpp_failed_the_next_answer_is_right(insight, face, faces, monkeypatch):
    expected = said(insight, face, QUESTIONS[1])
    other = said(insight, faces[1], QUESTIONS[1])
    c = insight.language.llm._c
    with monkeypatch.context() as broken:
        broken.setattr(c, "llama_decode", lambda *args: 1)
        with pytest.raises(FaceInsightError, match="status 1"):
            insight.ask(face, QUESTIONS[1])
        with pytest.raises(FaceInsightError, match="status 1"):
            insight.choose(face, QUESTIONS)
    assert said(insight, face, QUESTIONS[1]) == expected
    assert said(insight, faces[1], QUESTIONS[1]) == other


def test_a_cancelled_answer_costs_no_further_token(insight, face, monkeypatch):
    llm, decode = insight.language.llm, insight.language.llm.decode
    ran = []
    monkeypatch.setattr(llm, "decode", lambda blocks, pos: ran.append(pos) or decode(blocks, pos))
    query = insight.questions.query("Describe this face.", (face,))
    stream = insight.language.generate(
        dataclasses.replace(query, findings=[insight.questions.findings(face, np.arange(3))])
    )
    next(stream)
    before = len(ran)
    stream.close()
    assert len(ran) == before
    assert insight.ask(face, QUESTIONS[0]).text


def test_words_as_embeddings_are_the_words(insight):
    """Rows read from the file give the same logits as their tokens, to the last bit."""
    llm = insight.language.llm
    tokens = insight.language.tokenizer.encode_question("Is she wearing glasses, or a hat?")
    (rows,) = llm.pack([tokens], embedded=True)
    assert rows.shape == (len(tokens), insight.perception._manifest.llm.width)
    insight.forget()
    logits = []
    for block in (tokens, rows):
        llm.truncate(0)
        llm.decode([block], 0)
        logits.append(llm.logits().copy())
    insight.forget()
    assert (logits[0] == logits[1]).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_embeddings_of_each_type(tmp_path, kind):
    gguf = pytest.importorskip("gguf")
    table = np.random.default_rng(0).normal(0, 1, (5, 64)).astype(np.float32)
    quant = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("other", np.ones((3, 32), np.float32))
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(table, quant), raw_dtype=quant)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    found = Embeddings.open(tmp_path / "a.gguf")
    if kind == "Q4_0":
        assert found is None
        return
    expected = gguf.quants.dequantize(gguf.quants.quantize(table, quant), quant)
    assert np.array_equal(found([3, 0, 3]), expected[[3, 0, 3]])


def test_choices_are_what_the_answers_begin_with(insight, face):
    before = said(insight, face, QUESTIONS[0])
    chosen = insight.choose(face, MANY)
    assert [c.question for c in chosen] == MANY
    for choice in chosen[:6]:
        (first,) = insight.language.generate(insight.questions.query(choice.question, (face,)), max_tokens=1)
        if first.text in choice.probabilities:
            assert choice.probabilities[first.text] * choice.coverage == pytest.approx(first.probability, abs=2e-2)
            assert choice.answer == first.text
        assert sum(choice.probabilities.values()) == pytest.approx(1)
    assert [x.name for x in chosen[2].labels] == ["Eyeglasses"]
    # Each by itself says the same as all together.
    (alone,) = insight.choose(face, [MANY[2]])
    assert alone.probabilities == pytest.approx(chosen[2].probabilities, abs=2e-2)
    # And the conversation goes on undisturbed.
    assert said(insight, face, QUESTIONS[0]) == before


def test_what_may_be_chosen(insight, face):
    (found,) = insight.choose(face, ["What does the hair look like?"], [" The hair is brown", " The hair is black"])
    assert set(found.probabilities) == {" The hair is brown", " The hair is black"}
    with pytest.raises(RequestError, match="begin alike"):
        insight.choose(face, QUESTIONS, ["Yes", "Yes, indeed"])
    with pytest.raises(RequestError, match="at least two"):
        insight.choose(face, QUESTIONS, ["Yes"])
    with pytest.raises(RequestError, match="expected a list"):
        insight.choose(face, "Is she smiling?")
    assert insight.choose(face, []) == ()
    for question, answers in (
        ("Is this a man or a woman?", ("Yes", "No")),
        ("Is she female?", ("Yes", "No")),
        ("Is she smiling?", ("man", "woman")),
        ("How old is she?", ("Yes", "No")),
    ):
        with pytest.raises(PolicyError, match="switched off"):
            insight.choose(face, [question], answers)


def test_a_face_without_tokens_of_this_width_is_refused_and_nothing_is_lost(insight, face):
    expected = said(insight, face, QUESTIONS[0])
    with pytest.raises(RequestError, match="width 7"):
        insight.ask(dataclasses.replace(face, tokens=face.tokens[:, :7], key="narrow"), QUESTIONS[0])
    assert said(insight, face, QUESTIONS[0]) == expected
