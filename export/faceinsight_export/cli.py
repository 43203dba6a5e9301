"""faceinsight-export: a training run or a LLaVA checkpoint to a verified bundle, its parts, a check, TensorRT plans."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .precisions import BUNDLE_LLM_PRECISIONS, LLM_PRECISIONS, VISION_PRECISIONS


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit code 0, 1 with the reason on stderr, or 130 when it is interrupted."""
    args = _arguments().parse_args(argv)
    run = {"bundle": _bundle, "vision": _vision, "llm": _llm, "parser": _parser, "verify": _verify, "engine": _engine}
    try:
        return run[args.command](args)
    except (ValueError, OSError, RuntimeError, ImportError) as e:
        print(f"faceinsight-export: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("faceinsight-export: interrupted; the same command goes on with the step it was in", file=sys.stderr)
        return 130


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faceinsight-export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _bundle_options(commands.add_parser("bundle", help="a training run, or a LLaVA checkpoint, to a verified bundle"))
    vision = commands.add_parser("vision", help="the vision encoder and projector of a LLaVA checkpoint to ONNX")
    vision.add_argument("checkpoint", type=Path)
    _vision_options(vision)
    _file_option(vision, ".onnx")
    llm = commands.add_parser("llm", help="the LLM of a checkpoint to GGUF")
    llm.add_argument("checkpoint", type=Path)
    llm.add_argument(
        "--llm", choices=tuple(LLM_PRECISIONS), default="q4_k_m", help="how weights are stored (default: q4_k_m)"
    )
    llm.add_argument("--lora", type=Path, metavar="DIR", help="a LoRA adapter in PEFT's layout, merged in")
    _file_option(llm, ".gguf")
    face_parser = commands.add_parser("parser", help="the face parser of a training run to ONNX")
    face_parser.add_argument("run", type=Path, help="run folder of faceinsight-train")
    face_parser.add_argument("--recipe", default="nano", help="a shipped recipe or a .toml file (default: nano)")
    _file_option(face_parser, ".onnx")
    verify = commands.add_parser("verify", help="check a bundle's manifest and files, and against its checkpoint")
    verify.add_argument("bundle", help="a folder or a shipped name")
    verify.add_argument("--checkpoint", type=Path, help="of a bundle from a LLaVA: compare each stage with it again")
    verify.add_argument("--lora", type=Path, metavar="DIR", help="the adapter that was merged in")
    verify.add_argument("--attach", type=Path, metavar="RUN", help="the run that its own tokens were made of")
    verify.add_argument("--face", default="nano", help="the bundle that lent it its head (nano); with --attach")
    engine = commands.add_parser("engine", help="build a bundle's TensorRT plans on this device, for this device")
    engine.add_argument("bundle", help="a folder or a shipped name")
    engine.add_argument("--again", action="store_true", help="also the plans that are there already")
    engine.add_argument("--precision", help="fp32 or fp16 (default: fp16 on a Jetson, else fp32)")
    return parser


def _file_option(parser: argparse.ArgumentParser, suffix: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"the {suffix} file; must not exist")


def _vision_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vision", choices=tuple(VISION_PRECISIONS), default="fp32", help="precision of the encoder (default: fp32)"
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="image tokens for the LLM, such as 288 or 144 of 576")
    parser.add_argument(
        "--method", choices=("merge", "pool", "random"), default="merge", help="how fewer tokens are made (merge)"
    )


def _bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="run folder of faceinsight-train, or a LLaVA checkpoint folder")
    parser.add_argument("--recipe", help="a shipped recipe or a .toml file; nano for a training run without one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder; must not exist")
    run = parser.add_argument_group("of a training run")
    run.add_argument("--assets", type=Path, metavar="DIR", help="folder made by faceinsight-train assets")
    run.add_argument(
        "--training-free",
        type=Path,
        metavar="DATA",
        help="instead: graph, rules and segmentation prompts on parts that saw no face label; needs the labelled faces",
    )
    llava = parser.add_argument_group("of a LLaVA checkpoint")
    _vision_options(parser)
    llava.add_argument(
        "--llm", choices=BUNDLE_LLM_PRECISIONS, default="q4_k_m", help="how the LLM's weights are stored (q4_k_m)"
    )
    llava.add_argument("--lora", type=Path, metavar="DIR", help="a LoRA adapter in PEFT's layout, merged in")
    llava.add_argument("--face", default="nano", help="the bundle that lends detector, parser and head (nano)")
    llava.add_argument(
        "--attach",
        type=Path,
        metavar="RUN",
        help="region and knowledge tokens for its LLM, made by faceinsight-train attach; without, findings are words",
    )


def _bundle(args: argparse.Namespace) -> int:
    from faceinsight_models.recipe import llava_recipes

    llava = args.recipe in llava_recipes() or (args.source / "config.json").is_file()
    if llava and args.recipe in (None, "nano"):
        raise ValueError(
            f"{args.source} is a LLaVA checkpoint: give --recipe the prompt that it was trained with, one of "
            f"{', '.join(llava_recipes())}, or a .toml file"
        )
    stages = (_llava_bundle if llava else _run_bundle)(args)
    print("\n".join(map(str, stages)))
    size = sum(p.stat().st_size for p in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


def _say(text: str) -> None:
    print(f"exporting {text} ...", flush=True)


def _run_bundle(args: argparse.Namespace) -> list[Any]:
    from faceinsight_models.parts import load_trained
    from faceinsight_models.pipeline import Pipeline
    from faceinsight_models.recipe import Recipe
    from faceinsight_models.training_free import training_free

    from .bundle import export_bundle

    if not args.assets:
        raise ValueError("--assets is missing: the folder made by faceinsight-train assets")
    recipe = Recipe.load(args.recipe or "nano")
    if args.training_free:
        trained = training_free(Pipeline(recipe, data=args.training_free, run=args.source, asset_folder=args.assets))
    else:
        trained = load_trained(recipe, args.source, args.assets)
    return list(export_bundle(trained, args.out, progress=_say))


def _llava_bundle(args: argparse.Namespace) -> list[Any]:
    from .llava_bundle import ExportOptions, export_llava

    options = ExportOptions(args.vision, args.llm, args.tokens, args.method, args.lora)
    return list(
        export_llava(
            args.source,
            args.out,
            recipe=args.recipe,
            options=options,
            face=args.face,
            attach=args.attach,
            progress=_say,
        )
    )


def _vision(args: argparse.Namespace) -> int:
    from .llava_bundle import convert_vision, open_checkpoint

    checkpoint = open_checkpoint(args.checkpoint)
    convert_vision(checkpoint, args.out, precision=args.vision, tokens=args.tokens, method=args.method)
    return _written(args.out)


def _llm(args: argparse.Namespace) -> int:
    from .gguf.quantize import convert
    from .llava_bundle import open_checkpoint

    convert(open_checkpoint(args.checkpoint, args.lora), args.out, args.llm)
    return _written(args.out)


def _parser(args: argparse.Namespace) -> int:
    from faceinsight_models.nets.graphs import write_parser
    from faceinsight_models.parts import load_parser
    from faceinsight_models.recipe import Recipe

    from .atomic import new_file
    from .onnx.fp16_weights import store_fp16

    with new_file(args.out) as partial:
        write_parser(load_parser(args.run), partial, size=Recipe.load(args.recipe).crop.parser)
        store_fp16(partial)
    return _written(args.out)


def _written(path: Path) -> int:
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from faceinsight.bundle.bundle import Bundle

    opened = Bundle.open(args.bundle)
    for name, entry in opened.manifest.files.items():
        print(f"{name:<16} {entry.bytes:>12,}  sha256 {entry.sha256[:16]}  ok")
    if args.checkpoint:
        from .llava_bundle import verify_bundle

        stages = verify_bundle(
            opened, args.checkpoint, lora=args.lora, face=args.face, attach=args.attach, progress=_say
        )
        print("\n".join(map(str, stages)))
        return 0
    for stage, error in opened.manifest.parity.items():
        print(f"{stage:<22} parity error {error:.2e}")
    return 0


def _engine(args: argparse.Namespace) -> int:
    from faceinsight.backends.tensorrt.engines import EngineCache, key_of
    from faceinsight.backends.tensorrt.opening import build_plan, find_plan, open_plan
    from faceinsight.backends.tensorrt.target import target
    from faceinsight.bundle.bundle import Bundle

    opened, where, cache = Bundle.open(args.bundle), target(), EngineCache()
    print(f"TensorRT {where.version} on {where.device} (sm_{where.sm}); plans in {cache.folder}")
    for name in opened.graph_files:
        model = opened.file(name)
        key = key_of(model, where, precision=args.precision)
        if args.again:
            # Where the one in fp16 is not used, fp32's is.
            for each in {key, replace(key, precision="fp32")}:
                cache.discard(each)
        # Opened, not only read: one that TensorRT refuses is built again.
        session, state = open_plan(cache, key, model), "there already"
        if session is None:
            state = "built"
            build_plan(cache, key, model, partial(print, f"{name}:", flush=True))
        else:
            session.close()
        key, plan = find_plan(cache, key, model)
        if plan is not None:
            far = "not compared" if plan.deviation is None else f"{plan.deviation:.1e} from ONNX Runtime's CPU"
            print(f"{name:<16} {key.precision} {len(plan.data):>12,} bytes  {far}  {state}")
    return 0
