"""The wheel carries everything: code, types, the bundle; it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PHOTO

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_answers_outside_the_checkout(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 60e6
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert (site / "faceinsight" / "py.typed").is_file()
    code = (
        "import faceinsight as f; print(f.__file__)\n"
        "i = f.FaceInsight.load('nano', device='cpu')\n"
        f"print(i.ask(i.perceive({str(PHOTO)!r})[0], 'Is she smiling?').text)"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=True
    )
    where, answer = done.stdout.splitlines()
    assert where.startswith(str(site))
    assert answer.startswith("Yes")
