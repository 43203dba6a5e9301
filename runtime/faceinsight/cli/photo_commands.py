"""The commands that look at photos: ask, describe, report, draw."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import FaceInsightError, RequestError
from ..host.dependencies import load
from ..plain import plain, to_json
from ..types import AnswerChunk, Face
from .console import utf8
from .photos import PhotoAnswer, expand, perceive, read, several

if TYPE_CHECKING:
    from ..insight import FaceInsight

DESCRIBE = "Describe this face."


def load_insight(args: argparse.Namespace) -> FaceInsight:
    """The bundle that the options of a command name."""
    allow, deny = (
        list(dict.fromkeys(g.strip() for text in given for g in text.split(",") if g.strip()))
        for given in (args.allow, args.deny)
    )
    from .. import FaceInsight

    return FaceInsight.load(args.bundle, device=args.device, allow=allow, deny=deny, threads=args.threads)


def _choose(faces: Sequence[Face], numbers: Sequence[int], image: str) -> tuple[Face, ...]:
    for number in numbers:
        if not 1 <= number <= len(faces):
            raise RequestError(f"--face {number}: {image} has {len(faces)} face{'' if len(faces) == 1 else 's'}")
    return tuple(faces[n - 1] for n in numbers)


def ask(args: argparse.Namespace) -> int:
    """Questions about a face; of several, which one it is and where the others are goes to stderr."""
    from .text import listed, place

    with load_insight(args) as insight:
        faces, width = perceive(insight, args.image)
        if not faces:
            raise RequestError(f"{args.image}: no face found")
        if args.face is None and len(faces) > 1:
            which = "asked about face 1, the largest; --face N asks about another, --face all about each"
            print(f"{args.image}: {len(faces)} faces, {which}", file=sys.stderr)
            print(listed(faces, width), file=sys.stderr)
        each = [(n,) for n in range(1, len(faces) + 1)] if args.face == () else [args.face or (1,)]
        answers: list[dict[str, Any]] = []
        for numbers in each:
            chosen = _choose(faces, numbers, args.image)
            if len(each) > 1 and not args.json:
                print(f"face {numbers[0]}, {place(chosen[0].box, width)}:")
            for question, before in zip(args.question, (None, *args.question), strict=False):
                after = before if args.follow else None
                if args.json:
                    answer = insight.ask(chosen, question, after=after)
                    answers.append(plain(PhotoAnswer(question, numbers, len(faces))) | answer.to_dict())
                    continue
                if len(args.question) > 1:
                    print(f"> {question}")
                _print_stream(insight.stream(chosen, question, after=after))
    if args.json:
        print_json(answers)
    return 0


def _print_stream(pieces: Iterator[AnswerChunk]) -> None:
    for chunk in pieces:
        print(chunk.text, end="", flush=True)
    print()


def describe(args: argparse.Namespace) -> int:
    """Each face in the LLM's words."""
    from .text import place

    def described(insight: FaceInsight, faces: tuple[Face, ...], name: str, width: int) -> list[Any]:
        numbers = args.face or tuple(range(1, len(faces) + 1))
        out = []
        for number, face in zip(numbers, _choose(faces, numbers, name), strict=True):
            answer = insight.ask(face, DESCRIBE)
            out.append(plain(PhotoAnswer(DESCRIBE, (number,), len(faces))) | answer.to_dict())
            if not (args.json or args.jsonl):
                who = f"face {number}, {place(face.box, width)}: " if len(faces) > 1 else ""
                print(f"{who}{answer}", flush=True)
        return out

    return _each_photo(args, described, "answers")


def report(args: argparse.Namespace) -> int:
    """Every label of every face, in words or as JSON."""
    from .text import report_table, report_text

    def reported(insight: FaceInsight, faces: tuple[Face, ...], name: str, width: int) -> list[Any]:
        reports = [insight.report(face) for face in faces]
        if not (args.json or args.jsonl):
            for n, r in enumerate(reports, 1):
                print(report_table(n, r, width=width) if args.all else report_text(n, r, insight.manifest, width=width))
        return plain(reports)  # type: ignore[no-any-return]

    return _each_photo(args, reported, "faces")


def _each_photo(
    args: argparse.Namespace, work: Callable[[FaceInsight, tuple[Face, ...], str, int], list[Any]], what: str
) -> int:
    """Photo by photo; of several, one that cannot be read does not end the run. work: prints, or returns for JSON."""
    many, json, failed = several(args.image), args.json or args.jsonl, 0
    lines = args.jsonl or many
    with load_insight(args) as insight:
        for name in expand(args.image):
            try:
                faces, width = perceive(insight, name)
                if many and not json:
                    print(f"{name}: {len(faces)} face{'' if len(faces) == 1 else 's'}")
                elif not faces and not json:
                    print(f"{name}: no face found")
                found = work(insight, faces, name, width)
            except FaceInsightError as e:
                if not lines:
                    raise
                failed += 1
                if json:
                    print_json({"photo": name, "error": str(e)}, indent=None)
                else:
                    print(f"faceinsight: {e}", file=sys.stderr)
                continue
            if json:
                print_json({"photo": name, what: found} if lines else found, indent=None if lines else 1)
            elif many:
                print(flush=True)
    return int(failed > 0)


def draw(args: argparse.Namespace) -> int:
    """A picture of what was seen."""
    load("cv2")
    from .. import draw as pictures

    if args.out.suffix.lower() not in pictures.FORMATS:
        raise RequestError(f"{args.out}: expected a name that ends in .png, .jpg or .webp")
    if len(args.face) != 1:
        raise RequestError("--face: the questions in a picture are about one face; name one")
    image, _ = read(args.image)
    if args.image != "-" and args.out.exists() and args.out.samefile(args.image):
        raise RequestError(f"{args.out} is the photo itself; name another file")
    with load_insight(args) as insight:
        faces = insight.perceive(image)
        about = _choose(faces, args.face, args.image) if faces else ()
        talk = [(q, insight.ask(about, q).text) for q in args.question] if about else []
        picture = pictures.draw(image, faces, talk=talk, about=args.face[0])
    try:
        args.out.write_bytes(pictures.encode(picture, args.out.suffix))
    except OSError as e:
        raise RequestError(f"{args.out} cannot be written: {e.strerror}") from e
    print(f"{args.out}: {picture.shape[1]}x{picture.shape[0]}")
    if args.question and not faces:
        raise RequestError(f"{args.image}: no face found, so nothing was asked")
    return 0


def print_json(data: Any, *, indent: int | None = 1) -> None:
    """On one line with indent None. A console that is not UTF-8 gets what it lacks escaped."""
    print(to_json(data, indent=indent, escape=not utf8()), flush=True)
