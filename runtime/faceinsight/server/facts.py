"""What a worker says of its bundle and its device, so that the parent need not read a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bundle.bundle import locate
from ..plain import plain
from ..types import STATES

if TYPE_CHECKING:
    from ..insight import FaceInsight

#: The group that is on by default and that a kiosk switches off: it is about how people feel, or seem to.
EXPRESSION = "expression"


def facts(insight: FaceInsight, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values; said once, when the worker is ready."""
    manifest, enabled = insight.manifest, insight.perception.enabled
    groups = {c.group for c in manifest.characteristics if c.name in enabled}
    providers = {p for graph in insight.graphs for p in graph.providers}
    return {
        "bundle": manifest.name,
        "bundle_sha256": _sha256(settings["bundle"]),
        "bytes": sum(f.bytes for f in manifest.files.values()),
        "created": manifest.created,
        "context": manifest.llm.context,
        "max_answer": manifest.llm.max_answer,
        "licences": plain(manifest.licences),
        "switches": {name: name in groups for name in manifest.switches},
        "device": ", ".join(sorted(providers)),
        "characteristics": [
            {"name": c.name, "phrase": c.phrase, "group": c.group, "region": c.region}
            for c in manifest.characteristics
            if c.name in enabled
        ],
        "choices": [list(r.of) for r in manifest.rules if r.kind == "exactly_one" and set(r.of) <= set(enabled)],
        "states": list(STATES),
        "classes": list(manifest.parser.classes),
        "regions": plain(manifest.regions),
    }


def kiosk_deny(settings: Mapping[str, Any]) -> list[str]:
    """Groups to switch off: in a kiosk expression too, where the bundle has it and nobody allowed it by name."""
    import json

    switches = json.loads((locate(settings["bundle"]) / "manifest.json").read_bytes()).get("switches", {})
    more = EXPRESSION in switches and EXPRESSION not in (*settings["allow"], *settings["deny"])
    return [*settings["deny"], *([EXPRESSION] if more else [])]


def _sha256(bundle: str) -> str:
    import hashlib

    return hashlib.sha256((locate(bundle) / "manifest.json").read_bytes()).hexdigest()
