"""Writes how the shipped bundles read the server's canary face: faceinsight/server/canary.json.

python benchmarks/canary.py             after a bundle has changed
"""

from __future__ import annotations

import argparse
import json

from faceinsight import FaceInsight
from faceinsight.bundle.bundle import Bundle
from faceinsight.server.canary import RECORD, examine

BUNDLES = ("nano",)


def states(name: str) -> tuple[str, dict[str, str]]:
    """The bundle's SHA-256, and the states of all its labels on the CPU."""
    bundle = Bundle.open(name)
    with FaceInsight.load(name, device="cpu", allow=list(bundle.manifest.switches)) as insight:
        found = examine(insight)
    if not found["ok"]:
        raise SystemExit(f"{name}: the canary's face is not found, or not answered")
    return bundle.sha256, found["states"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    RECORD.write_text(json.dumps(dict(map(states, BUNDLES)), indent=1) + "\n")


if __name__ == "__main__":
    main()
