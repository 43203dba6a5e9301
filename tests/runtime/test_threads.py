"""One instance, several threads: everybody gets what they asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from faceinsight import Answer, FaceInsight, RequestError
from faceinsight.perception.image import load_image


@pytest.fixture(scope="module")
def shared(tiny_bundle):
    with FaceInsight.load(tiny_bundle, device="cpu", threads=1) as fi:
        yield fi


def test_photos_from_several_threads_do_not_mix(shared, photo):
    """OpenCV's detector, which it was once, remembers the size of a picture between two calls: unguarded, it raised
    cv2.error, or gave one thread the other's face."""
    image = load_image(photo)
    shots = [image, np.ascontiguousarray(image[:, ::-1]), image[: image.shape[0] * 3 // 4], np.roll(image, 40, 1)]
    alone = [shared.perceive(x) for x in shots]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.perceive, shots * 6))
    for i, faces in enumerate(together):
        wanted = alone[i % len(shots)]
        assert [f.box for f in faces] == [f.box for f in wanted]
        assert [x.state for f in faces for x in f.labels] == [x.state for f in wanted for x in f.labels]


def test_questions_from_several_threads_wait_for_each_other(shared, photo):
    image = load_image(photo)
    faces = [shared.perceive(x)[0] for x in (image, np.ascontiguousarray(image[:, ::-1]))]
    asked = [(faces[i % 2], q) for i, q in enumerate(("Is she smiling?", "Does she have a hat on?") * 3)]
    alone = [shared.ask(*a).text for a in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda a: shared.ask(*a).text, asked)) == alone
        chosen = [pool.submit(shared.choose, faces[0], ["Is she smiling?"]) for _ in range(3)]
        told = [pool.submit(shared.ask, faces[1], "Describe this face.") for _ in range(3)]
        assert len({f.result().text for f in told}) == 1
        assert len({f.result()[0].probabilities["Yes"].__round__(3) for f in chosen}) == 1


def test_an_answer_is_not_cut_off_by_another_threads_stream(shared, photo):
    """The newest question ends a stream, not an `ask` that is under way; and what a stream takes back is its own."""
    face = shared.perceive(photo)[0]
    whole = shared.ask(face, "Describe this face.").text
    overtaken = []

    def stream() -> None:
        for _ in range(12):
            try:
                list(shared.stream(face, "What color is the hair?"))
            except RequestError as e:
                overtaken.append(str(e))

    with ThreadPoolExecutor(2) as pool:
        streaming = pool.submit(stream)
        told = [pool.submit(shared.ask, face, "Describe this face.").result().text for _ in range(12)]
        streaming.result()
    assert set(told) == {whole}
    assert all("another question was asked" in e for e in overtaken)


def test_a_stream_that_was_overtaken_does_not_touch_the_other_conversation(shared, photo, monkeypatch):
    """Taking a word back trims the LLM's cache: only of the conversation that holds it."""
    monkeypatch.setattr("faceinsight.language.generation.MIN_ALTERNATIVE_PROB", 0.0)  # there is always another word
    face = shared.perceive(photo)[0]
    language = shared.language
    query = shared.questions.query("Describe this face.", (face,))
    overtaking = iter([None])

    def constraint(said: str) -> int | None:
        if next(overtaking, said) is None:  # once: another question comes just then
            language.prefill((face,))
            language._decode([query.token_ids * 4], language.prefix.length)
            positions.append(language.llm.n_past)
        return 0

    positions: list[int] = []
    with pytest.raises(RequestError, match="another question was asked"):
        list(language.generate(dataclasses.replace(query, findings=[]), constraint=constraint))
    assert language.llm.n_past == positions[0]


def test_closing_waits_for_no_answer_and_breaks_none(photo, tiny_bundle):
    fi = FaceInsight.load(tiny_bundle, device="cpu", threads=1)
    face = fi.perceive(photo)[0]

    def talk() -> str:
        while True:
            try:
                fi.ask(face, "Describe this face.")
                fi.choose(face, ["Is she smiling?"])
            except RequestError as e:
                return str(e)

    with ThreadPoolExecutor(3) as pool:
        talking = [pool.submit(talk) for _ in range(3)]
        time.sleep(0.3)
        fi.close()
        assert {t.result() for t in talking} == {"this FaceInsight is closed; load it again"}
    with pytest.raises(RequestError, match="is closed"):
        fi.perceive(photo)
    fi.close()


def test_asyncio(shared, photo):
    face = shared.perceive(photo)[0]
    questions = ("Is she smiling?", "Does she have a hat on?", "Is she wearing glasses?", "Describe this face.")
    alone = [shared.ask(face, q).text for q in questions]

    async def pieces(question: str) -> AsyncIterator[str]:
        """As docs/integrate.md has it."""
        stream = await asyncio.to_thread(shared.stream, face, question)
        while piece := await asyncio.to_thread(next, stream, None):
            yield piece.text

    async def use() -> None:
        together = await asyncio.gather(*(asyncio.to_thread(shared.ask, face, q) for q in questions))
        assert [a.text for a in together] == alone
        for late in (0.0001, 0.001):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(shared.ask, face, questions[3]), late)
            assert (await asyncio.to_thread(shared.ask, face, questions[0])).text == alone[0]
        task = asyncio.create_task(asyncio.to_thread(shared.ask, face, questions[3]))
        await asyncio.sleep(0)
        task.cancel()
        photos = await asyncio.gather(*(asyncio.to_thread(shared.perceive, photo) for _ in range(3)))
        assert {p[0].key for p in photos} == {face.key}
        assert (await asyncio.to_thread(shared.ask, face, questions[1])).text == alone[1]
        assert "".join([x async for x in pieces(questions[3])]).strip() == alone[3]

    asyncio.run(use())


@pytest.mark.slow
def test_two_threads_two_thousand_calls(shared, photo):
    image = load_image(photo)
    faces = [shared.perceive(x)[0] for x in (image, np.ascontiguousarray(image[:, ::-1]))]
    calls = [(shared.ask, faces[0], "Is she smiling?"), (shared.ask, faces[1], "Does she have a hat on?")]
    calls += [(shared.ask, faces[1], "What color is the hair?"), (shared.perceive, image)]

    def result(call: tuple) -> object:
        found = call[0](*call[1:])
        return found.text if isinstance(found, Answer) else [(f.box, f.key) for f in found]

    alone = [result(c) for c in calls]

    def many(first: int) -> int:
        order = [(first + i) % len(calls) for i in range(2000)]
        return sum(result(calls[i]) != alone[i] for i in order)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(many, (0, 1))) == [0, 0]
