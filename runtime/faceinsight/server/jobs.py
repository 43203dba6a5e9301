"""What the worker does for a request: pictures to faces, questions to checked answers. Every job is a generator of
events: "progress" goes no further than the parent, "chunk" and "refusal" have text, the last one says "done"."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import QuestionError
from ..plain import plain
from ..types import AnswerChunk, Face, Label
from .errors import ApiError, bad_request
from .face_store import FaceStore, Photo
from .findings import Filler, Unfillable, everything
from .stops import StopCutter
from .watching.pictures import parsing
from .watching.scene import Scene

if TYPE_CHECKING:
    from ..insight import FaceInsight

Event = dict[str, Any]
Events = Generator[Event, None, None]
NO_FACE = "No face was found in the picture."
NO_FACE_OF_TWO = "No face was found in one of the two pictures."


class Jobs:
    """All that a worker can do, with one FaceInsight."""

    def __init__(self, insight: FaceInsight, store: FaceStore) -> None:
        """store: where faces are held between requests."""
        self._insight, self.store = insight, store
        self._scene = Scene(insight)
        self._answering = False
        self._known: Mapping[str, Callable[[Event, Sequence[bytes]], Events]] = {
            "faces": self._faces,
            "chat": self._chat,
            "ask": self._ask,
            "choose": self._choose,
            "forget": self._forget,
            "frame": self._frame,
            "ask_now": self._ask_now,
            "camera_off": self._camera_off,
        }

    def run(self, header: Event, blobs: Sequence[bytes]) -> Events:
        """The events of one job. Raises ApiError, or an error of the library's."""
        self.store.expire()
        for event in self._known[header["op"]](header, blobs):
            if event["event"] == "done":
                event["held"] = self.held()
            yield event

    def beside(self, header: Event, blobs: Sequence[bytes]) -> Events:
        """The events of a camera's frame, between two events of another job, whose answer it does not change."""
        self._answering = True
        try:
            yield from self.run(header, blobs)
        finally:
            self._answering = False

    def held(self) -> dict[str, int]:
        """How many faces are held, and what happened to them since this was last said."""
        return dataclasses.asdict(self.store.take_counts()) | {"faces": self.store.faces}

    def _faces(self, header: Event, blobs: Sequence[bytes]) -> Events:
        began = time.perf_counter()
        photo = self.store.photo(blobs[0])
        milliseconds = _since(began)
        names = self._names(header.get("labels"), "labels")
        faces = []
        for i, face in enumerate(photo.faces):
            report = self._insight.report(face).to_dict()
            if names is not None:
                report["labels"] = [x for x in report["labels"] if x["name"] in names]
            drawn = {"parsing": parsing(face)} if header.get("parsing") else {}
            faces.append({"id": photo.ids[i], "index": i, **report, "landmarks": plain(face.landmarks), **drawn})
        image = {"width": photo.width, "height": photo.height}
        yield {
            "event": "done",
            "image": image,
            "images": [photo.sha256[:12]],
            "faces": faces,
            "timings": {"perceive": milliseconds},
        }

    def _chat(self, header: Event, blobs: Sequence[bytes]) -> Events:
        began = time.perf_counter()
        names = self._names(header.get("labels"), "faceinsight.labels")
        photos = []
        for blob in blobs:
            # Between two pictures a client may have left, and whoever waits for a sign of progress gets one.
            yield {"event": "progress"}
            photos.append(self.store.photo(blob))
        milliseconds = _since(began)
        if len(photos) == 2 and header.get("face") is None:
            chosen, ignored = [(p, 0) for p in photos], []
        else:
            # The index is of a sharp picture first; several pictures are frames of one scene.
            best = max(range(len(photos)), key=lambda i: _sharpness(photos[i]))
            chosen = [(photos[best], header.get("face") or 0)]
            ignored = [f"image {i + 1}" for i in range(len(photos)) if i != best]
        schema = header.get("schema")
        if schema and schema["kind"] != "any":
            self._filler().check(schema)
        if not all(photo.faces for photo, _ in chosen):
            text = NO_FACE_OF_TWO if any(p.faces for p in photos) else NO_FACE
            yield {"event": "refusal" if schema else "chunk", "text": text}
            fixed = _fixed("no_face", text, ignored, refused=bool(schema)) | {"timings": {"perceive": milliseconds}}
            yield fixed | {"images": [p.sha256[:12] for p in photos]}
            return
        for photo, index in chosen:
            if not 0 <= index < len(photo.faces):
                text = f"The picture has {len(photo.faces)} faces, numbered from 0."
                raise bad_request("face_unknown", text, "faceinsight.face")
        events = self._structured(schema, *chosen[0]) if schema else self._answer_about(header, chosen, names)
        for event in events:
            if event["event"] == "done":
                event["timings"]["perceive"] = milliseconds
                event["images"] = [p.sha256[:12] for p in photos]
                event["ignored"] += ignored
            yield event

    def _ask(self, header: Event, blobs: Sequence[bytes]) -> Events:
        yield from self._answer_about(header, [self._held(i) for i in header["faces"]], None)

    def _frame(self, header: Event, blobs: Sequence[bytes]) -> Events:
        began = time.perf_counter()
        done = self._scene.frame(header, blobs[0], beside=self._answering)
        yield {"event": "done", **done, "timings": {"watch": _since(began)}}

    def _camera_off(self, header: Event, blobs: Sequence[bytes]) -> Events:
        yield {"event": "done", **self._scene.end()}

    def _ask_now(self, header: Event, blobs: Sequence[bytes]) -> Events:
        """About somebody in front of the camera: what was found of them in the frames so far."""
        people, question = self._scene.meant(header)
        faces = [person.face for person in people if person.face is not None]
        for event in self._answer(header | {"question": question}, faces, None, []):
            self._scene.require(people)
            if event["event"] == "done":
                tracks = [person.track.id for person in people]
                event |= {"tracks": tracks, "age_ms": round(max(map(self._scene.age, people)) * 1e3)}
            yield event

    def _answer_about(self, header: Event, chosen: Sequence[tuple[Photo, int]], names: set[str] | None) -> Events:
        """About faces of photos."""
        return self._answer(header, _faces_of(chosen), names, [_who(photo, i) for photo, i in chosen])

    def _answer(self, header: Event, faces: Sequence[Face], names: set[str] | None, who: list[Event]) -> Events:
        """names: of the labels that are wanted; who: what the answer says of the faces."""
        began = time.perf_counter()
        question, after, limit = header["question"], header.get("after"), header.get("max_tokens")
        ignored = []
        try:
            stream = self._insight.stream(faces, question, after=after, max_tokens=limit)
        except QuestionError:
            if after is None:
                raise
            # A long conversation: the question by itself.
            ignored.append("history")
            stream = self._insight.stream(faces, question, max_tokens=limit)
        cutter = StopCutter(header.get("stop") or ())
        chunks: list[AnswerChunk] = []
        for chunk in stream:
            chunks.append(chunk)
            if text := cutter.feed(chunk.text):
                yield {"event": "chunk", "text": text}
            if cutter.stopped:
                stream.close()
                break
        if text := cutter.rest():
            yield {"event": "chunk", "text": text}
        answer = stream.answer
        finish_reason = "stop" if cutter.stopped else answer.finish_reason
        labels = answer.labels if names is None else [x for f in faces for x in f.labels if x.name in names]
        yield {
            "event": "done",
            "finish": finish_reason,
            "text": cutter.text,
            "usage": self._usage(chunks[-1].tokens, len(faces)),
            "first_token_ms": answer.timings.first_token_ms,
            "total_ms": answer.timings.total_ms,
            "logprobs": _logprobs(chunks) if finish_reason in ("stop", "length") and not cutter.stopped else None,
            "faces": who,
            "labels": plain(labels),
            "evidence": list(answer.evidence),
            "confidence": answer.confidence,
            "outcome": answer.outcome,
            "reason": answer.reason,
            "rules": _rules(answer.labels),
            "ignored": ignored,
            "timings": {"answer": _since(began)},
        }

    def _structured(self, schema: Event, photo: Photo, index: int) -> Events:
        """A JSON schema filled from the findings, or a refusal that says why it cannot be."""
        began = time.perf_counter()
        spent = [self._usage(0, 0)]
        filler, face = self._filler(spent), photo.faces[index]
        done = _fixed("stop", "", []) | {"faces": [_who(photo, index)], "outcome": "answered"}
        try:
            any_shape = schema["kind"] == "any"
            value = everything(photo.faces) if any_shape else filler.fill(schema, face, photo.faces)
            done["text"] = json.dumps(value, ensure_ascii=False)
            yield {"event": "chunk", "text": done["text"]}
        except Unfillable as e:
            done |= {"text": None, "refusal": f"{e}.", "outcome": "unsure"}
            yield {"event": "refusal", "text": done["refusal"]}
        done["usage"] = {name: sum(u[name] for u in spent) for name in spent[0]}
        done["first_token_ms"] = done["total_ms"] = _since(began)
        yield done | {"timings": {"answer": _since(began)}}

    def _filler(self, spent: list[dict[str, int]] | None = None) -> Filler:
        """spent: gets what the LLM reads and writes."""

        def ask(face: Face, question: str) -> str | None:
            try:
                answer = self._insight.ask(face, question)
            except QuestionError:
                return None
            if spent is not None:
                spent.append(self._usage(answer.timings.tokens, 1))
            return None if answer.outcome == "declined" else answer.text

        enabled = self._insight.perception.enabled
        return Filler([c for c in self._insight.manifest.characteristics if c.name in enabled], ask)

    def _usage(self, tokens: int, faces: int) -> dict[str, int]:
        """What the LLM read and wrote: nothing where it was not asked."""
        language = self._insight.language
        if not tokens:
            return {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "image_tokens": 0}
        return {
            "prompt_tokens": language.prompt_tokens,
            "completion_tokens": tokens,
            "cached_tokens": language.prefix.cached,
            "image_tokens": faces * self._insight.manifest.face_tokens,
        }

    def _choose(self, header: Event, blobs: Sequence[bytes]) -> Events:
        began = time.perf_counter()
        faces = _faces_of(list(map(self._held, header["faces"])))
        scores = self._insight.choose(faces, header["questions"], header["answers"])
        yield {"event": "done", "choices": plain(scores), "timings": {"answer": _since(began)}}

    def _forget(self, header: Event, blobs: Sequence[bytes]) -> Events:
        face_id = header.get("face")
        if face_id is not None:
            self._held(face_id)
        yield {"event": "done", "wiped": self.store.delete(face_id)}

    def _held(self, face_id: str) -> tuple[Photo, int]:
        found = self.store.face(face_id)
        if found is None:
            raise ApiError(
                404, "face_forgotten", "There is no face with this id, or no longer: send the picture again."
            )
        return found

    def _names(self, names: Sequence[str] | None, param: str) -> set[str] | None:
        """Names of characteristics that are switched on. Raises ApiError for another one."""
        if names is None:
            return None
        unknown = sorted(set(names) - set(self._insight.perception.enabled))
        if unknown:
            raise bad_request("label_unknown", f"{param} names a characteristic that is not computed here.", param)
        return set(names)


def _fixed(finish_reason: str, text: str, ignored: list[str], *, refused: bool = False) -> Event:
    """The end of an answer that nobody had to think about."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "image_tokens": 0}
    empty: Event = {"labels": [], "faces": [], "evidence": [], "rules": [], "logprobs": None, "reason": None}
    return empty | {
        "event": "done",
        "finish": finish_reason,
        "text": None if refused else text,
        "refusal": text if refused else None,
        "usage": usage,
        "confidence": 1.0,
        "outcome": "declined",
        "ignored": ignored,
    }


def _sharpness(photo: Photo) -> tuple[bool, float, float]:
    """Of its largest face: how well it can be read, then its size."""
    if not photo.faces:
        return False, 0.0, 0.0
    face: Face = photo.faces[0]
    return True, face.quality.value if face.quality else 0.0, face.box[2] * face.box[3]


def _faces_of(chosen: Sequence[tuple[Photo, int]]) -> list[Face]:
    return [photo.faces[i] for photo, i in chosen]


def _who(photo: Photo, index: int) -> dict[str, Any]:
    face = photo.faces[index]
    return {"id": photo.ids[index], "index": index, "box": plain(face.box), "score": face.score, "of": len(photo.faces)}


def _rules(labels: Sequence[Label]) -> list[str]:
    """The rules that turned a label round."""
    return list(dict.fromkeys(x.rule for x in labels if x.rule))


def _logprobs(chunks: Sequence[AnswerChunk]) -> list[dict[str, Any]] | None:
    """Each token's logarithm of its probability; None where the text is not what the LLM's tokens say."""
    parts = [c for c in chunks[:-1] if c.tokens] + [c for c in chunks[-1:] if c.text]
    if not parts or not all(c.text for c in parts):
        return None
    return [{"token": c.text, "logprob": math.log(min(1.0, max(c.probability, 1e-9)))} for c in parts]


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 3)
