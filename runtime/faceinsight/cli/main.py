"""faceinsight: ask, describe, report, draw, watch, serve, kiosk, info, doctor, fit, bench, schema."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from .._version import __version__
from ..backends.device import DEVICES
from ..errors import RequestError
from . import photo_commands
from .bench import COMPARE, Commands, add_bench
from .console import end
from .kiosk import add_kiosk
from .photo_commands import print_json
from .serve import add_serve
from .watch import add_watch

EXIT_CODES = """exit codes:
  0    done
  1    bad input, with one line on stderr; of several photos, one could not be read (the others were);
       fit: it does not fit; doctor: something fails; bench compare: something is worse
  2    wrong usage; bench compare: the two cannot be compared
  3    bench compare: something may be worse, but the difference is within the noise
  130  interrupted"""


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns an exit code, as EXIT_CODES has them."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:2] == COMPARE.split():
        argv = [COMPARE, *argv[2:]]
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s")
    return end(lambda: int(args.run(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="faceinsight",
        description="Ask questions about the faces in photos, offline.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"faceinsight {__version__}")
    add = parser.add_subparsers(dest="command", required=True)
    _add_photo_commands(add)
    add_serve(add)
    add_kiosk(add)
    _add_machine_commands(add)
    return parser


def _add_photo_commands(add: Commands) -> None:
    """ask, describe, report, draw, watch: what is done with photos and cameras."""
    photo, photos = "a JPEG, PNG or WebP; - is standard input", "photos and folders; - is standard input"
    ask = add.add_parser("ask", help="ask one or more questions about a face")
    ask.add_argument("image", help=photo)
    ask.add_argument("question", nargs="+", help="each in its own quotes")
    which = "1 is the largest (default); N,M compares two, all asks about each"
    ask.add_argument("--face", type=_faces, metavar="N", help=which)
    ask.add_argument("--follow", action="store_true", help="each question follows the one before")
    ask.set_defaults(run=photo_commands.ask)

    describe = add.add_parser("describe", help="each face in a few sentences")
    describe.add_argument("image", nargs="+", help=photos)
    describe.add_argument("--face", type=_faces, default=(), metavar="N", help="one face only, 1 is the largest")
    describe.set_defaults(run=photo_commands.describe)

    report = add.add_parser("report", help="all enabled characteristics of every face")
    report.add_argument("image", nargs="+", help=photos)
    report.add_argument("--all", action="store_true", help="every label with state, probability and rule, a line each")
    report.set_defaults(run=photo_commands.report)

    draw = add.add_parser("draw", help="a picture of boxes, parsing and labels")
    draw.add_argument("image", help=photo)
    draw.add_argument("question", nargs="*", help="asked about one face, answered in the picture")
    draw.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.png", help="or .jpg, .webp")
    draw.add_argument("--face", type=_faces, default=(1,), metavar="N", help="which face the questions are about (1)")
    draw.set_defaults(run=photo_commands.draw)

    for command in (ask, describe, report, draw, add_watch(add)):
        _add_device(command)
        _add_switches(command)
    ask.add_argument("--json", action="store_true", help="machine-readable output")
    for command in (describe, report):
        lines = "a list for one photo; JSON Lines, one object a photo, for several or a folder"
        command.add_argument("--json", action="store_true", help=f"machine-readable output: {lines}")
        command.add_argument("--jsonl", action="store_true", help="JSON Lines, also for one photo")


def _add_machine_commands(add: Commands) -> None:
    """info, doctor, fit, bench, bench compare, schema: what is said of this machine and this package."""
    info = add.add_parser("info", help="versions, devices, active providers, bundle, sizes")
    info.set_defaults(run=_info)
    bundle = "a shipped bundle or a folder (default: nano)"
    doctor = add.add_parser("doctor", help="what is wrong with this machine's set-up, and what to do")
    doctor.add_argument("--bundle", default="nano", metavar="B", help=bundle)
    doctor.set_defaults(run=_doctor)

    fit = add.add_parser("fit", help="will a bundle fit into memory? Before it is loaded")
    fit.add_argument("bundle", nargs="?", default="nano", help=bundle)
    fit.add_argument("--memory", metavar="8GB", help="what it may use (default: what is available here now)")
    fit.add_argument("--device", default="cpu", choices=DEVICES[1:], help="what it is to run on (default: cpu)")
    card = "free memory of the GPU, or shared: it is the CPU's, as on a Jetson (default: that of the GPU here)"
    fit.add_argument("--gpu-memory", metavar="8GB", help=card)
    fit.set_defaults(run=_fit)

    schema = add.add_parser("schema", help="the JSON schema of what --json and to_dict() write")
    schema.add_argument("document", nargs="?", help="of one document only, such as report or ask")
    schema.set_defaults(run=_schema, verbose=False)

    bench, compare = add_bench(add)
    for command in (info, bench):
        _add_device(command)
    for command in (doctor, fit, compare):
        command.add_argument("-v", "--verbose", action="store_true", help="log more")
    for command in (info, doctor, fit, bench, compare):
        command.add_argument("--json", action="store_true", help="machine-readable output")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", default="nano", metavar="B", help="a shipped bundle or a folder (default: nano)")
    command.add_argument("--device", default="auto", choices=DEVICES)
    command.add_argument("--threads", type=int, metavar="N", help="thread budget (default: all cores)")
    command.add_argument("-v", "--verbose", action="store_true", help="log device choices")


def _add_switches(command: argparse.ArgumentParser) -> None:
    on, off = "groups to switch on: gender,age,race,subjective", "groups to switch off: expression"
    command.add_argument("--allow", action="append", default=[], metavar="G,...", help=f"{on}; may be repeated")
    command.add_argument("--deny", action="append", default=[], metavar="G,...", help=f"{off}; may be repeated")


def _faces(text: str) -> tuple[int, ...]:
    """Numbers of one face or two; () for all of them."""
    numbers = text.split(",")
    if text == "all":
        return ()
    if len(numbers) > 2 or not all(n.strip().isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f"expected a face's number, two with a comma, or all, found {text!r}")
    return tuple(map(int, numbers))


def _info(args: argparse.Namespace) -> int:
    from ..diagnostics.info import info, table

    facts = info(args.bundle, device=args.device, threads=args.threads)
    if args.json:
        print_json(facts)
    else:
        print(table(facts))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from ..diagnostics.doctor import FAIL, diagnose, to_dict
    from ..diagnostics.facts import gather

    checks = diagnose(gather(args.bundle))
    if args.json:
        print_json(to_dict(checks))
    else:
        for c in checks:
            print(f"{c.status:<5} {c.name:<16}{c.found}")
            for label, text in (("expected", c.expected), ("do", c.do)):
                if text and c.status != "ok":
                    print(f"{'':<22}{label}: {text}")
    return int(any(c.status == FAIL for c in checks))


def _fit(args: argparse.Namespace) -> int:
    from ..bundle.bundle import Bundle
    from ..diagnostics.fit import estimate, parse_memory
    from ..diagnostics.fit_text import table
    from ..diagnostics.gpu_fit import GpuMemory

    gpu = None
    if args.gpu_memory:
        if args.device == "cpu":
            raise RequestError("--gpu-memory is for --device cuda or tensorrt")
        shared = args.gpu_memory == "shared"
        gpu = GpuMemory(shared, 0 if shared else parse_memory(args.gpu_memory))
    memory = parse_memory(args.memory) if args.memory else None
    fit = estimate(Bundle.open(args.bundle), memory=memory, device=args.device, gpu=gpu)
    if args.json:
        print_json(fit.to_dict())
    else:
        print(table(fit))
    return int(not fit.fits)


def _schema(args: argparse.Namespace) -> int:
    from .schema import read as read_schema

    print_json(read_schema(args.document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
