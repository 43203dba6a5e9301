"""faceinsight-export: trained parts to a bundle, a bundle checked, and its TensorRT plans built on the target."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit code 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="faceinsight-export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bundle = commands.add_parser("bundle", help="export a training run to a verified bundle")
    bundle.add_argument("run", type=Path, help="run folder of faceinsight-train")
    bundle.add_argument("--recipe", default="nano", help="a shipped recipe or a .toml file (default: nano)")
    bundle.add_argument(
        "--assets", type=Path, required=True, metavar="DIR", help="folder made by faceinsight-train assets"
    )
    bundle.add_argument(
        "--training-free", type=Path, metavar="DATA",
        help="instead: graph, rules and segmentation prompts on parts that saw no face label; needs the labelled faces",
    )  # fmt: skip
    bundle.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder; must not exist")
    verify = commands.add_parser("verify", help="check a bundle's manifest and files")
    verify.add_argument("bundle", help="a folder or a shipped name")
    engine = commands.add_parser("engine", help="build a bundle's TensorRT plans on this device, for this device")
    engine.add_argument("bundle", help="a folder or a shipped name")
    args = parser.parse_args(argv)
    try:
        return {"bundle": _bundle, "verify": _verify, "engine": _engine}[args.command](args)
    except (ValueError, OSError, RuntimeError, ImportError) as e:
        print(f"faceinsight-export: {e}", file=sys.stderr)
        return 1


def _bundle(args: argparse.Namespace) -> int:
    from faceinsight_models.pipeline import Pipeline, load_trained
    from faceinsight_models.recipe import Recipe
    from faceinsight_models.training_free import training_free

    from .bundle import export_bundle

    recipe = Recipe.load(args.recipe)
    if args.training_free:
        trained = training_free(Pipeline(recipe, data=args.training_free, run=args.run, asset_folder=args.assets))
    else:
        trained = load_trained(recipe, args.run, args.assets)
    stages = export_bundle(trained, args.out, progress=lambda text: print(f"exporting {text} ...", flush=True))
    print("\n".join(map(str, stages)))
    size = sum(p.stat().st_size for p in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from faceinsight.bundle import Bundle

    opened = Bundle.open(args.bundle)
    for name, entry in opened.manifest.files.items():
        print(f"{name:<16} {entry.bytes:>12,}  sha256 {entry.sha256[:16]}  ok")
    for stage, error in opened.manifest.parity.items():
        print(f"{stage:<22} parity error {error:.2e}")
    return 0


def _engine(args: argparse.Namespace) -> int:
    from faceinsight.bundle import Bundle
    from faceinsight.engines import EngineCache, graph_files, key_of, target

    opened, where, cache = Bundle.open(args.bundle), target(), EngineCache()
    print(f"TensorRT {where.tensorrt} on {where.device} (sm_{where.sm}); plans in {cache.folder}")
    for name in graph_files(opened):
        key = key_of(opened.file(name), where)
        plan = cache.load(key)
        state = "there already" if plan else "built"
        if plan is None:
            plan = cache.build(key, opened.file(name), partial(print, f"{name}:", flush=True))
        print(f"{name:<16} {len(plan):>12,} bytes  {state}")
    return 0
