"""A folder of photos to JSON Lines: one line per photo, with its faces or with what is wrong with it.

    python examples/folder.py photos/ > faces.jsonl

`faceinsight report photos/ --json` does the same; this shows how to do it in your own program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from faceinsight import FaceInsight, ImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(folder: Path) -> None:
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    # Loaded once, for all photos.
    with FaceInsight.load("nano") as fi:
        for photo in photos:
            line: dict[str, object] = {"photo": str(photo)}
            try:
                line["faces"] = [fi.report(face).to_dict() for face in fi.perceive(photo)]
            except ImageError as e:
                # A damaged photo is one line, and does not end the run.
                line["error"] = str(e)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
