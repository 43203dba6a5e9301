"""Where things lie that tests use."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
#: NASA's portrait of Eileen Collins, 512 by 512 pixels, in the public domain.
PHOTO = ROOT / "tests" / "data" / "astronaut.png"
