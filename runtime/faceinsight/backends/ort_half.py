"""ONNX Runtime's own TensorRT provider in half precision, where that was asked for. Not run on hardware yet.

It is given the graph that TensorRT itself is given (tensorrt.half), so both compute in the same types, and what it
computes is compared with the CPU in the same way.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from ..errors import DeviceError
from .ort import open_session
from .plan_check import deviation
from .session import Session
from .tensorrt.engines import TOLERANCE, EngineCache, chosen_precision
from .tensorrt.rewrite import for_tensorrt
from .tensorrt.shapes import profile_of, shapes_to_compare

log = logging.getLogger(__name__)


def open_on_provider(model: Path, *, threads: int, strict: bool) -> Session:
    """A session on the provider: in fp16 where $FACEINSIGHT_ENGINE_PRECISION says so, and its results agree with the
    CPU's; else in the graph's own types. Arguments as in `ort.open_session`.

    Raises:
        DeviceError: the provider does not start, or the variable names an unknown precision.
        BundleError: the file is no ONNX model.
    """
    plans = EngineCache().folder
    if chosen_precision(default="fp32") == "fp16":
        session = _in_half(model, plans, threads=threads)
        if session is not None:
            return session
    return open_session(model, "tensorrt", threads=threads, strict=strict, engine_cache=plans)


def _in_half(model: Path, plans: Path, *, threads: int) -> Session | None:
    """None where the graph has types of its own, or where it cannot be used in half precision: the log says why."""
    with tempfile.TemporaryDirectory(prefix="faceinsight-") as folder:
        path = for_tensorrt(model, Path(folder) / "half.onnx", half=True)
        if path == model:
            return None
        data = path.read_bytes()
    try:
        session = open_session(model, "tensorrt", threads=threads, strict=True, engine_cache=plans, data=data)
        found = deviation(model, session, shapes_to_compare(profile_of(model)))
    except DeviceError as e:
        wrong = str(e)
    except Exception as e:  # noqa: BLE001 - whatever ONNX Runtime raises while it runs
        wrong = f"it does not run: {e}"
    else:
        if found <= TOLERANCE:
            return session
        wrong = f"its outputs are {found:.2g} from those on the CPU, at most {TOLERANCE} is accepted"
    log.warning("%s: not in fp16 on ONNX Runtime's TensorRT provider: %s; fp32 is used instead", model.name, wrong)
    return None
