"""Two faces compared: the two largest of a photo, or the largest ones of two photos.

python examples/two_faces.py group.jpg "Who is smiling?"
python examples/two_faces.py one.jpg other.jpg "Which of them wears glasses?"
"""

from __future__ import annotations

import sys

from faceinsight import FaceInsight


def main(photos: list[str], question: str) -> None:
    with FaceInsight.load("nano") as fi:
        faces = [face for photo in photos for face in fi.perceive(photo)[: 2 if len(photos) == 1 else 1]]
        if len(faces) < 2:
            raise SystemExit(f"expected two faces, found {len(faces)}")
        # "The first person" is the first of the two, "the second person" the other.
        print(fi.ask(faces[:2], question))

        # The same question about each by itself, as probabilities of the LLM.
        for i, face in enumerate(faces[:2], 1):
            scores = fi.choose(face, ["Is this person smiling?"])[0]
            print(f"person {i}: smiling {scores.probabilities['Yes']:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:-1], sys.argv[-1])
