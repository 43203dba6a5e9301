"""faceinsight: ask, report, draw, info, doctor, fit, bench."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .bench.cli import COMPARE, add_bench
from .bundle import Bundle
from .console import end, utf8
from .dependencies import load
from .device import DEVICES, Device, import_onnxruntime, llama_version
from .errors import RequestError
from .types import Answer, Face, Piece, Report

if TYPE_CHECKING:
    from .imaging import ImageSource
    from .insight import FaceInsight


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit code 0; 1 with one line on stderr for bad input; 2 for wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:2] == COMPARE.split():
        argv = [COMPARE, *argv[2:]]
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s")
    return end(lambda: int(args.run(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faceinsight", description="Ask questions about the faces in a photo, offline."
    )
    parser.add_argument("--version", action="version", version=f"faceinsight {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    ask = commands.add_parser("ask", help="ask one or more questions about a face")
    ask.add_argument("image")
    ask.add_argument("question", nargs="+", help="each in its own quotes")
    ask.add_argument(
        "--face", type=_numbers, default=(1,), metavar="N[,N]", help="which face, 1 is the largest; two to compare them"
    )
    ask.add_argument("--follow", action="store_true", help="each question follows the one before")
    ask.set_defaults(run=_ask)

    report = commands.add_parser("report", help="all enabled characteristics of every face")
    report.add_argument("image")
    report.set_defaults(run=_report)

    draw = commands.add_parser("draw", help="a picture of boxes, parsing and labels")
    draw.add_argument("image")
    draw.add_argument("question", nargs="*", help="asked about the largest face, answered in the picture")
    draw.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.png")
    draw.set_defaults(run=_draw)

    info = commands.add_parser("info", help="versions, devices, active providers, bundle, sizes")
    info.set_defaults(run=_info)

    doctor = commands.add_parser("doctor", help="what is wrong with this machine's set-up, and what to do")
    doctor.add_argument("--bundle", default="nano", metavar="B", help="a shipped bundle or a folder (default: nano)")
    doctor.set_defaults(run=_doctor)

    fit = commands.add_parser("fit", help="will a bundle fit into memory? Before it is loaded")
    fit.add_argument("bundle", nargs="?", default="nano", help="a shipped bundle or a folder (default: nano)")
    fit.add_argument("--memory", metavar="8GB", help="what it may use (default: what is available here now)")
    fit.set_defaults(run=_fit)

    bench, compare = add_bench(commands)

    for command in (doctor, fit, compare):
        command.add_argument("--json", action="store_true", help="machine-readable output")
        command.add_argument("-v", "--verbose", action="store_true", help="log more")
    for command in (ask, report, draw, info, bench):
        command.add_argument(
            "--bundle", default="nano", metavar="B", help="a shipped bundle or a folder (default: nano)"
        )
        command.add_argument("--device", default="auto", choices=DEVICES)
        command.add_argument("--threads", type=int, metavar="N", help="thread budget (default: all cores)")
        command.add_argument("-v", "--verbose", action="store_true", help="log device choices")
        if command not in (info, bench):
            on, off = "groups to switch on: gender,age,race,subjective", "groups to switch off: expression"
            command.add_argument("--allow", action="append", default=[], metavar="G,...", help=f"{on}; may be repeated")
            command.add_argument("--deny", action="append", default=[], metavar="G,...", help=f"{off}; may be repeated")
        if command is not draw:
            command.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def _load(args: argparse.Namespace) -> FaceInsight:
    allow, deny = (
        list(dict.fromkeys(g.strip() for text in given for g in text.split(",") if g.strip()))
        for given in (args.allow, args.deny)
    )
    from . import FaceInsight

    return FaceInsight.load(args.bundle, device=args.device, allow=allow, deny=deny, threads=args.threads)


def _photo(args: argparse.Namespace) -> ImageSource:
    """The photo's path, or standard input."""
    return sys.stdin.buffer if args.image == "-" else str(args.image)


def _ask(args: argparse.Namespace) -> int:
    with _load(args) as insight:
        faces = _choose(insight.perceive(_photo(args)), args.face, args.image)
        answers = []
        for question, before in zip(args.question, (None, *args.question), strict=False):
            after = before if args.follow else None
            if args.json:
                answers.append(insight.ask(faces, question, after=after))
                continue
            if len(args.question) > 1:
                print(f"> {question}")
            _print_stream(insight.stream(faces, question, after=after))
        if args.json:
            _print_json([_answer(q, a) for q, a in zip(args.question, answers, strict=True)])
    return 0


def _print_stream(pieces: Iterator[Piece]) -> None:
    for piece in pieces:
        print(piece.text, end="", flush=True)
    print()


def _numbers(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) > 2 or not all(n.strip().isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f"expected a face's number, or two with a comma, found {text!r}")
    return tuple(map(int, numbers))


def _choose(faces: tuple[Face, ...], numbers: Sequence[int], image: str) -> tuple[Face, ...]:
    if not faces:
        raise RequestError(f"{image}: no face found")
    for number in numbers:
        if not 1 <= number <= len(faces):
            raise RequestError(f"--face {number}: {image} has {len(faces)} face{'s' if len(faces) > 1 else ''}")
    return tuple(faces[n - 1] for n in numbers)


def _report(args: argparse.Namespace) -> int:
    with _load(args) as insight:
        reports = [insight.report(face) for face in insight.perceive(_photo(args))]
    if args.json:
        _print_json([r.to_dict() for r in reports])
        return 0
    for number, report in enumerate(reports, 1):
        _print_report(number, report)
    if not reports:
        print(f"{args.image}: no face found")
    return 0


def _print_report(number: int, report: Report) -> None:
    x, y, w, h = report.box
    print(f"face {number}  {w:.0f}x{h:.0f} px at {x:.0f},{y:.0f}  detector {report.score:.2f}")
    if report.quality:
        reasons = [x for x in (report.quality.reason, *report.quality.covered) if x]
        print(f"  quality     {report.quality.value:5.2f}  {', '.join(reasons) or 'can be read'}")
    if report.age:
        print(f"  age         {report.age.years:5.0f}  years, most likely {report.age.low} to {report.age.high}")
    for label in sorted(report.labels, key=lambda x: (x.state != "yes", x.state != "unsure", -(x.probability or 0))):
        chance = "    -" if label.probability is None else f"{label.probability:5.2f}"
        rule = f"   (rule: {label.rule})" if label.rule else ""
        print(f"  {label.state:<12}{chance}  {label.name}{rule}")


def _draw(args: argparse.Namespace) -> int:
    cv2 = load("cv2")
    from .draw import draw
    from .imaging import load_image

    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise RequestError(f"{args.out}: expected a name that ends in .png, .jpg or .webp")
    if args.image != "-" and args.out.exists() and args.out.samefile(args.image):
        raise RequestError(f"{args.out} is the photo itself; name another file")
    image = load_image(_photo(args))
    with _load(args) as insight:
        faces = insight.perceive(image)
        talk = [(q, insight.ask(_choose(faces, (1,), args.image), q).text) for q in args.question]
        picture = draw(image, faces, talk=talk)
    data = cv2.imencode(args.out.suffix, picture[:, :, ::-1])[1]
    try:
        args.out.write_bytes(data.tobytes())
    except OSError as e:
        raise RequestError(f"{args.out} cannot be written: {e.strerror}") from e
    print(f"{args.out}: {picture.shape[1]}x{picture.shape[0]}")
    return 0


def _info(args: argparse.Namespace) -> int:
    import numpy

    cv2 = load("cv2")
    bundle = Bundle.open(args.bundle)
    device = Device.resolve(args.device, threads=args.threads)
    session = device.session(bundle.file(bundle.manifest.parser.file))
    ort = import_onnxruntime()
    facts: dict[str, Any] = {
        "faceinsight": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": device.threads,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": ort.__version__,
        "providers available": ort.get_available_providers(),
        "providers active": session.get_providers(),
        "llama-cpp-python": llama_version(),
        "llm on gpu": device.llm_on_gpu,
        "bundle": f"{bundle.manifest.name} ({bundle.path})",
        "bundle sha256": bundle.sha256,
        "bundle size MB": round(bundle.bytes / 1e6, 1),
        "files MB": {name: round(f.bytes / 1e6, 2) for name, f in bundle.manifest.files.items()},
        "characteristics": len(bundle.manifest.characteristics),
        "switches": bundle.manifest.switches,
        "licences": {x.component: x.licence for x in bundle.manifest.licences},
    }
    if args.json:
        _print_json(facts)
        return 0
    for key, value in facts.items():
        if isinstance(value, dict):
            value = "\n".join(f"{k}: {v}" if i == 0 else f"{'':<22}{k}: {v}" for i, (k, v) in enumerate(value.items()))
        print(f"{key:<22}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import FAIL, diagnose, gather, to_dict

    checks = diagnose(gather(args.bundle))
    if args.json:
        _print_json(to_dict(checks))
    else:
        for c in checks:
            print(f"{c.status:<5} {c.name:<16}{c.found}")
            for label, text in (("expected", c.expected), ("do", c.do)):
                if text and c.status != "ok":
                    print(f"{'':<22}{label}: {text}")
    return int(any(c.status == FAIL for c in checks))


def _fit(args: argparse.Namespace) -> int:
    from .fit import estimate, parse_memory

    fit = estimate(Bundle.open(args.bundle), memory=parse_memory(args.memory) if args.memory else None)
    if args.json:
        _print_json(fit.to_dict())
        return int(not fit.fits)
    for part in fit.parts:
        print(f"{part.name:<24}{part.bytes / 1e6:>10,.1f} MB  {part.how}")
    verdict = "it fits" if fit.fits else "it does not fit"
    print(f"{'total':<24}{fit.total / 1e6:>10,.1f} MB  of {fit.memory / 1e6:,.1f} MB: {verdict}")
    for part in fit.beyond:
        print(f"{'+ ' + part.name:<24}{part.bytes / 1e6:>10,.1f} MB  {part.how}")
    for line in fit.advice:
        print(f"try: {line}")
    return int(not fit.fits)


def _answer(question: str, answer: Answer) -> dict[str, Any]:
    return {"question": question} | answer.to_dict()


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=not utf8()))


if __name__ == "__main__":
    sys.exit(main())
