"""What the server says of itself: health, models, version, metrics, privacy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..allocator import overwrites_freed
from ..errors import ApiError
from ..metrics import CONTENT_TYPE, WIPES
from ..page.words import FIRST, notice
from ..state import State
from ..watching.live import LiveCamera
from ..web import Json
from .page import notice_facts


async def livez(request: Request) -> Response:
    """The event loop turns."""
    return Json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """A worker is there that answered the canary when it started, and the camera, if there is one, sends frames."""
    found = reasons(request.app.state.server)
    return Json({"status": "unavailable", "reasons": found}, 503) if found else Json({"status": "ok"})


def reasons(state: State) -> list[str]:
    """Why it is not ready; empty where it is."""
    camera = state.camera.status["state"] if state.camera else "off"
    return [
        *([] if state.supervisor.state == "ready" else [state.supervisor.state]),
        *([f"camera {camera}"] if camera in ("down", "frozen") else []),
    ]


async def health(request: Request) -> Response:
    """The same in llama-server's shape."""
    state: State = request.app.state.server
    if state.supervisor.state == "ready":
        return Json({"status": "ok"})
    message = {"loading": "Loading model"}.get(state.supervisor.state, state.supervisor.state)
    return Json({"error": {"code": 503, "message": message, "type": "unavailable_error"}}, 503)


async def version(request: Request) -> Response:
    """What runs: version, bundle, device."""
    state: State = request.app.state.server
    info = state.supervisor.info
    names = ("bundle", "bundle_sha256", "created", "device")
    return Json({"version": state.version, **{name: info[name] if info else None for name in names}})


async def metrics(request: Request) -> Response:
    """Counters and times for Prometheus."""
    state: State = request.app.state.server
    supervisor = state.supervisor
    state.metrics.queue_depth.set(supervisor.lane.depth)
    state.metrics.queue_limit.set(supervisor.lane.limit)
    state.metrics.ready.set(supervisor.state == "ready")
    state.metrics.read_machine()
    if state.camera:
        state.camera.count()
    state.metrics.worker_memory.set(supervisor.worker_memory())
    if supervisor.info:
        info = supervisor.info
        labels = (state.version, info["bundle"], info["bundle_sha256"], info["device"])
        state.metrics.build_info.labels(*labels).set(1)
    return Response(state.metrics.text(), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


async def models(request: Request) -> Response:
    """GET /v1/models: the names of the model."""
    state: State = request.app.state.server
    return Json({"object": "list", "data": [_model(state, name) for name in (state.model, *state.aliases)]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}: what runs under this name."""
    state: State = request.app.state.server
    if request.path_params["id"] not in state.models:
        known = ", ".join(sorted(state.models))
        raise ApiError(404, "model_not_found", f"There is no such model here; there are {known}.")
    return Json(_model(state, request.path_params["id"]))


def _model(state: State, name: str) -> dict[str, Any]:
    info = state.info
    return {
        "id": name,
        "object": "model",
        "created": _seconds(info["created"]),
        "owned_by": "faceinsight",
        "max_model_len": info["context"],
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "meta": {"n_ctx": info["context"]},
        "faceinsight": {
            "bundle_sha256": info["bundle_sha256"],
            "licences": sorted({x["licence"] for x in info["licences"]}),
            "switches": info["switches"],
        },
    }


def _seconds(created: str) -> int:
    """A date of the manifest, as Unix time; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0


async def report_schema(request: Request) -> Response:
    """GET /v1/report/schema: what is computed of a face here, as a JSON schema: a state for each characteristic."""
    state: State = request.app.state.server
    states = state.info["states"]
    properties = {
        c["name"]: {"type": "string", "enum": states, "description": f"The person {c['phrase']}."}
        for c in state.info["characteristics"]
    }
    return Json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "The states of a face's characteristics",
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


async def privacy(request: Request) -> Response:
    """GET /v1/privacy: what is computed, what is held where and how long."""
    state: State = request.app.state.server
    info, seconds = state.info, state.forget_after
    value = state.metrics.registry.get_sample_value
    wipes = [value("faceinsight_face_wipes_total", {"reason": r}) for r in WIPES]
    held = "until the server ends" if seconds is None else f"for {seconds:g} s after the last request about it"
    groups = [name for name, on in info["switches"].items() if on]
    return Json(
        {
            "switches": info["switches"],
            "computed": [c["name"] for c in info["characteristics"]],
            "not_computed": "No vector by which a face could be recognised in another picture; no identity.",
            "held": {
                "picture": "in memory, while its request runs",
                "face": f"in the worker's memory, {held}; DELETE /v1/faces wipes all of them",
                **(_held_of_the_camera(state.camera, counted=state.audience is not None) if state.camera else {}),
                "question and answer": "in memory, while the request runs" + ("; logged" if state.log_content else ""),
                "freed memory": "overwritten" if overwrites_freed() else "left as it is",
                "disk": "closed audience windows" if "window_log" in state.outlets else "nothing",
                "network": _network(state.outlets),
            },
            "counters": {
                "faces_found": value("faceinsight_faces_total") or 0,
                "faces_held": value("faceinsight_face_cache_faces") or 0,
                "faces_wiped": sum(w or 0 for w in wipes),
            },
            **_notices(state, groups, held),
            "licences": info["licences"],
        }
    )


def _held_of_the_camera(camera: LiveCamera, *, counted: bool) -> dict[str, str]:
    asked = "none before somebody agreed; then " if camera.consent.asked else ""
    return {
        "frame": f"{asked}the newest one, in memory, while it is looked at",
        "person in front of the camera": "in memory, until they leave or consent ends",
        **({"audience": "sums of windows, in memory: no figure of fewer than the least people"} if counted else {}),
    }


def _notices(state: State, groups: list[str], held: str) -> dict[str, Any]:
    """What people are told: in front of a camera in every language of the page."""
    if state.camera is None:
        return {"notice": _notice(groups, held)}
    facts = notice_facts(state)
    notices = {code: notice(words, facts) for code, words in state.words.items()}
    return {"notice": " ".join(notices[FIRST]), "notices": notices}


def _network(outlets: Sequence[str]) -> str:
    """What leaves the device."""
    ways = [name for name in outlets if name != "window_log"]
    more = f", and by {' and '.join(ways)} the device's state and closed audience windows" if ways else ""
    return f"nothing leaves but the answer{more}"


def _notice(groups: list[str], held: str) -> str:
    """A text for the people in pictures, made from what is switched on."""
    more = f", and the groups {', '.join(groups)}" if groups else ""
    return (
        "An AI system on this device looks at faces in pictures that are given to it and names visible features (hair, "
        f"glasses, beard and the like{more}). It does not recognise anybody. Pictures are not stored; what was found "
        f"of a face is held in memory {held}."
    )
