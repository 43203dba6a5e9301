"""A bundle of your own: verified, what is in it, and a question to it.

    faceinsight-export bundle path/to/llava --recipe llava-1.5-7b --out work/llava
    python examples/your_own_bundle.py work/llava photo.jpg "Describe this person."

Also a folder that was copied to a device by hand: what was damaged on the way is named.
"""

from __future__ import annotations

import sys

from faceinsight import BundleError, FaceInsight, MemoryShortError


def main(bundle: str, photo: str, question: str) -> None:
    try:
        # Hashes, shapes and versions are checked before anything is used.
        fi = FaceInsight.load(bundle, device="cpu", threads=2, allow=["age"], deny=["expression"])
    except BundleError as e:
        raise SystemExit(f"not a bundle that can be used: {e}") from e
    except MemoryShortError as e:
        raise SystemExit(f"{e}; `faceinsight fit {bundle}` says what takes it") from e
    with fi:
        m = fi.manifest
        print(f"{m.name}: {len(m.characteristics)} characteristics, switches {', '.join(m.switches)}")
        for entry in m.licences:
            print(f"  {entry.component}: {entry.licence}")
        for face in fi.perceive(photo)[:1]:
            age = fi.report(face).age
            if age:
                print(f"looks {age.years:.0f} years old ({age.low} to {age.high})")
            print(fi.ask(face, question))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "Describe this face.")
