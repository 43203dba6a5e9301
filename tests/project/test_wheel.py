"""The wheel carries everything: code, types, the bundle; it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import PHOTO, ROOT

from faceinsight.bundle.bundle import Bundle


@pytest.mark.slow
def test_wheel_answers_outside_the_checkout(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 45e6
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        said = archive.read(metadata).decode()
    # The code's licence is not that of the weights inside.
    assert "License-Expression: Apache-2.0 AND LicenseRef-FaceInsight-Weights" in said
    assert "License-File: LICENSE-WEIGHTS.md" in said
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    for name in ("py.typed", "cli/schema.json"):
        assert (site / "faceinsight" / name).is_file()
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


def test_ledger_says_what_the_weights_may_be_used_for():
    manifest = Bundle.open("nano").manifest
    licence = {x.component: x.licence for x in manifest.licences}
    assert set(licence) == {n for n in manifest.files if n.endswith((".onnx", ".gguf"))}
    assert licence.pop("detector.onnx") == "MIT"
    assert set(licence.values()) == {"non-commercial research only"}
    for page in ("LICENSE-WEIGHTS.md", "docs/licences.md", "README.md"):
        text = (ROOT / page).read_text()
        assert "non-commercial research only" in text.replace("**", "").replace("\n", " ")
    ledger = (ROOT / "docs" / "licences.md").read_text()
    assert all(f"`nano/{name}`" in ledger for name in licence)
