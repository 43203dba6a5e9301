"""`faceinsight bench` and `faceinsight bench compare`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..plain import to_json

if TYPE_CHECKING:
    # At run time argparse's own class takes no type.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any

#: Two words that argparse takes for one command.
COMPARE = "bench compare"


def add_bench(commands: Commands) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Both commands; what they share with others (--bundle, --device, --threads, --json) is added there."""
    bench = commands.add_parser("bench", help="how long each step takes on this machine")
    bench.add_argument("image", metavar="photo", help="with a face; ./compare, should it be called that")
    bench.add_argument("--rounds", type=int, default=100, metavar="N", help="of each step (default: 100)")
    bench.add_argument("--minutes", type=float, default=0.0, metavar="M", help="of a sustained run as well")
    bench.add_argument("--out", type=Path, metavar="OUT", help="a folder, or a name that ends in .json")
    bench.set_defaults(run=_bench)
    compare = commands.add_parser(
        COMPARE,
        help="what got slower from A to B",
        description="Exit code 0: nothing did; 1: something did; 2: not comparable; 3: something may have, but the "
        "difference is within the noise.",
    )
    for run in ("a", "b"):
        compare.add_argument(run, type=Path, metavar=run.upper(), help="a .json file, or a folder, as --out makes it")
    compare.add_argument("--threshold", type=float, default=0.1, metavar="T", help="0.1 is 10 %% (default)")
    compare.add_argument("--anyway", action="store_true", help="also runs of different machines or settings")
    compare.set_defaults(run=_compare)
    return bench, compare


def _bench(args: argparse.Namespace) -> int:
    # Says that OpenCV is missing, where it is.
    from .. import FaceInsight  # noqa: F401
    from ..bench.files import save, targets
    from ..bench.run import bench
    from ..bench.text import plain

    files = targets(args.out) if args.out else None
    result = bench(
        args.image,
        bundle=args.bundle,
        device=args.device,
        threads=args.threads,
        rounds=args.rounds,
        minutes=args.minutes,
        progress=lambda line: print(line, file=sys.stderr),
    )
    if files:
        save(result, files)
    print(result.to_json() if args.json else plain(result), end="" if args.json else "\n")
    if files and not args.json:
        print(f"saved: {', '.join(map(str, files))}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from ..bench.compare import compare
    from ..bench.files import result_file
    from ..bench.result import Result
    from ..bench.text import changes

    try:
        a, b = (Result.read(result_file(path)) for path in (args.a, args.b))
        found = compare(a, b, threshold=args.threshold, anyway=args.anyway)
    except RequestError as e:
        # 1 says that something got slower: scripts rely on it.
        print(f"faceinsight: {e}", file=sys.stderr)
        return 2
    print(to_json(found.to_dict()) if args.json else changes(found))
    return 1 if found.regressions else 3 if found.unclear else 0
