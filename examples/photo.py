"""A photo: the report of each face, two answers, and a description that is printed while it is generated.

python examples/photo.py tests/data/astronaut.png
"""

from __future__ import annotations

import sys

from faceinsight import FaceInsight


def main(path: str) -> None:
    with FaceInsight.load("nano") as fi:
        faces = fi.perceive(path)
        print(f"{len(faces)} faces")
        for face in faces:
            print(face)
            for label in fi.report(face).labels:
                if label.state == "yes":
                    print(f"  {label.probability:.2f} {label.phrase}")
        if not faces:
            return

        answer = fi.ask(faces[0], "Is she wearing glasses?")
        print(answer.text, f"({answer.outcome}, confidence {answer.confidence:.2f})")
        print(fi.ask(faces[0], "And a hat?", after="Is she wearing glasses?"))

        for chunk in fi.stream(faces[0], "Describe this face."):
            print(chunk, end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1])
