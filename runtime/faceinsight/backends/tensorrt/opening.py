"""A session on a model's plan: opened where there is one, else built, now or in the background.

Not run on hardware yet.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import DeviceError
from ..session import Session
from .engines import EngineCache, EngineKey, Plan, Progress, WrongPlanError, key_of
from .session import PlanRefusedError, TensorRtSession
from .target import EngineTarget

log = logging.getLogger(__name__)


def open_session(model: Path, where: EngineTarget, fallback: Callable[[], Session | None]) -> Session:
    """A session on the model's plan.

    Where there is no plan yet, or one that TensorRT refuses: on the fallback while one is built in the background from
    the first run on. It is built now without a fallback, and on a GPU that shares its memory with the CPU: a build
    beside everything else may not fit there, and kernels would be timed under load.

    Args:
        model: the ONNX file.
        where: what the plan is for.
        fallback: makes the session that answers meanwhile, if there is one; called where it is needed.

    Raises:
        DeviceError: there is no plan that can be used, and no fallback.
    """
    cache, key = EngineCache(), key_of(model, where)
    try:
        session = open_plan(cache, key, model)
    except WrongPlanError as e:
        instead = fallback()
        if instead is None:
            raise DeviceError(f"{model.name}: {e}") from e
        log.warning("%s: stays on %s: %s", model.name, instead.get_providers()[0], e)
        return instead
    if session is not None:
        return session
    meanwhile = None if where.integrated else fallback()
    if meanwhile is not None:
        return LazyEngineSession(model.name, meanwhile, partial(build_plan, cache, key, model))
    return TensorRtSession(build_plan(cache, key, model), name=model.name)


def prepare(models: Sequence[Path], where: EngineTarget) -> None:
    """Build the plans that are missing, one after another, before anything else takes memory. Raises DeviceError."""
    cache = EngineCache()
    for model in models:
        key = key_of(model, where)
        # What is wrong with a plan says open_session, which knows whether there is a fallback.
        with contextlib.suppress(WrongPlanError):
            if find_plan(cache, key, model)[1] is None:
                build_plan(cache, key, model)


def find_plan(cache: EngineCache, key: EngineKey, model: Path) -> tuple[EngineKey, Plan | None]:
    """The plan that is there, if any, and its key: where the one in fp16 cannot be used, it is fp32's.

    Raises:
        WrongPlanError: the one in fp32 does too.
    """
    try:
        return key, cache.load(key)
    except WrongPlanError as e:
        key = _in_fp32(key, model, e)
        return key, cache.load(key)


def _in_fp32(key: EngineKey, model: Path, wrong: WrongPlanError) -> EngineKey:
    """The key to go on with. Raises `wrong` where it was fp32's."""
    if key.precision == "fp32":
        raise wrong
    log.warning("%s: %s; fp32 is used instead", model.name, wrong)
    return replace(key, precision="fp32")


def open_plan(cache: EngineCache, key: EngineKey, model: Path) -> TensorRtSession | None:
    """The plan that is there; None where there is none, or where TensorRT refuses it: it is discarded then.

    Raises:
        WrongPlanError: it computes something else.
        DeviceError: TensorRT or CUDA does not start, or memory is short.
    """
    key, plan = find_plan(cache, key, model)
    if plan is None:
        return None
    try:
        return TensorRtSession(plan.data, name=model.name)
    except PlanRefusedError as e:
        log.warning("%s; it is built again", e)
        cache.discard(key)
        return None


def build_plan(cache: EngineCache, key: EngineKey, model: Path, progress: Progress | None = None) -> bytes:
    """Build it; where the one in fp16 cannot be used, in fp32. progress: the log by default.

    Raises:
        WrongPlanError: the one in fp32 does too.
        DeviceError: it cannot be built, or does not run.
    """
    log.warning("%s: building its TensorRT plan in %s; this takes minutes, once here", model.name, key.precision)
    lines = progress or (lambda line: log.info("%s: %s", model.name, line))
    try:
        return cache.build(key, model, lines).data
    except WrongPlanError as e:
        return build_plan(cache, _in_fp32(key, model, e), model, progress)


class LazyEngineSession:
    """Runs on a fallback, builds in the background from the first run on, and goes over to the plan when it is there.

    If the build fails, the reason is logged and the fallback stays, which is a GPU's too.
    """

    def __init__(
        self,
        name: str,
        fallback: Session,
        make: Callable[[], bytes],
        *,
        open_engine: Callable[[bytes], Session] | None = None,
    ) -> None:
        """make: builds the plan. open_engine: makes a session of it."""
        self._name, self._session, self._make = name, fallback, make
        self._open = open_engine or (lambda plan: TensorRtSession(plan, name=name))
        self._thread: threading.Thread | None = None
        self._plan: bytes | None = None

    def get_inputs(self) -> Sequence[Any]:
        """As the active session's."""
        return self._session.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        """As the active session's."""
        return self._session.get_outputs()

    def get_providers(self) -> list[str]:
        """What is active now."""
        return self._session.get_providers()

    def run(self, names: Sequence[str] | None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by name, from whichever is ready."""
        if self._thread is None:
            log.warning("%s: no TensorRT plan yet: running on %s meanwhile", self._name, self.get_providers()[0])
            self._thread = threading.Thread(target=self._build, name=f"build {self._name}", daemon=True)
            self._thread.start()
        if self._plan is not None:
            self._switch_to_engine(self._plan)
        return self._session.run(names, feeds)

    def wait(self) -> None:
        """Until a build that has begun is done, or has failed."""
        if self._thread is not None:
            self._thread.join()

    def _build(self) -> None:
        try:
            self._plan = self._make()
        except (DeviceError, OSError) as e:
            log.error("%s: stays on %s: %s", self._name, self.get_providers()[0], e)

    def _switch_to_engine(self, plan: bytes) -> None:
        self._plan = None
        try:
            self._session = self._open(plan)
            log.info("%s: runs on %s now", self._name, self.get_providers()[0])
        except DeviceError as e:
            log.error("%s: stays on %s: %s", self._name, self.get_providers()[0], e)
