"""What a worker says of its bundle and its device, so that the parent need not read a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bundle.bundle import locate
from ..plain import plain
from ..types import STATES

if TYPE_CHECKING:
    from ..insight import FaceInsight


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
            {"name": c.name, "phrase": c.phrase, "group": c.group}
            for c in manifest.characteristics
            if c.name in enabled
        ],
        "states": list(STATES),
    }


def _sha256(bundle: str) -> str:
    import hashlib

    return hashlib.sha256((locate(bundle) / "manifest.json").read_bytes()).hexdigest()
