"""What was asked leaves no trace: not in memory, in the log, in files or in metrics."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import sys
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO
from serving import Serving, data_uri, small_photo, user

from faceinsight.server.allocator import SETTINGS, _is_glibc

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _is_glibc(), reason="only glibc overwrites what is freed")]


class Canaries:
    """A photo and a question with patterns that occur nowhere else."""

    def __init__(self) -> None:
        self.word = "quux" + secrets.token_hex(6)
        exif = secrets.token_bytes(64)
        jpeg = small_photo()
        head = b"\xff\xe1" + (8 + len(exif)).to_bytes(2, "big") + b"Exif\0\0" + exif
        self.photo = jpeg[:2] + head + jpeg[2:]
        middle = len(self.photo) // 2 // 3 * 3
        self.patterns = {
            "exif": exif[8:40],
            "scan": self.photo[middle : middle + 30],
            "base64": base64.b64encode(self.photo[middle : middle + 30]),
            "word": self.word.encode(),
            "word in UTF-16": self.word.encode("utf-16-le"),
            "word in UTF-32": self.word.encode("utf-32-le"),
        }

    def found(self, data: bytes) -> set[str]:
        return {name for name, pattern in self.patterns.items() if pattern in data}


def memory(pid: int) -> bytes:
    """All that a process can read of its own."""
    parts = []
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, mode = line.split()[:2]
            if "r" in mode and not line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                begin, end = (int(x, 16) for x in place.split("-"))
                mem.seek(begin)
                parts.append(mem.read(end - begin))
    return b"".join(parts)


def ask_everything(server: Serving, canaries: Canaries) -> None:
    question = f"Is the {canaries.word} smiling?"
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for stream in (False, True):
            body = {"model": "faceinsight", "messages": [user(question, data_uri(canaries.photo, "jpeg"))]}
            assert http.post("/v1/chat/completions", json=body | {"stream": stream}).status_code == 200
        image = base64.b64encode(canaries.photo).decode()
        body = {"model": "faceinsight", "prompt": question, "images": [image]}
        assert http.post("/api/generate", json=body).status_code == 200
        found = http.post("/v1/faces", content=canaries.photo, headers={"content-type": "image/jpeg"}).json()
        face = found["faces"][0]["id"]
        assert http.post(f"/v1/faces/{face}/ask", json={"question": question}).status_code == 200
        assert http.post(f"/v1/faces/{face}/ask", json={"question": question, "stroem": 1}).status_code == 400
        assert http.post("/v1/chat/completions", content=question.encode()).status_code == 400
        cut = {"content-type": "image/jpeg"}
        assert http.post("/v1/faces", content=canaries.photo[:-500], headers=cut).status_code == 400
        assert http.delete("/v1/faces").json() == {"wiped": 1}


def test_nothing_stays_in_memory_logs_files_or_metrics(tiny_bundle: Path, tmp_path: Path):
    temporary, canaries = tmp_path / "tmp", Canaries()
    temporary.mkdir()
    with Serving(tmp_path, tiny_bundle, env={"TMPDIR": str(temporary), "HOME": str(temporary)}) as server:
        server.wait_ready()
        assert server.get("/v1/privacy").json()["held"]["freed memory"] == "overwritten"
        ask_everything(server, canaries)
        time.sleep(0.2)
        assert canaries.found(memory(server.pid)) == set()
        assert canaries.found(memory(server.worker)) == set()
        assert canaries.found((server.get("/metrics").text + server.log).encode()) == set()
        for pid in (server.pid, server.worker):
            (limit,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in x]
            assert limit.split()[4:6] == ["0", "0"]
    files = [p for p in tmp_path.rglob("*") if p.is_file() and canaries.found(p.read_bytes())]
    assert files == []


def test_the_search_finds_what_is_not_overwritten(tiny_bundle: Path, tmp_path: Path):
    """Without the settings words and pictures do stay: the test above can fail."""
    canaries = Canaries()
    with Serving(tmp_path, tiny_bundle, env={**SETTINGS, "PYTHONMALLOC": "pymalloc", "GLIBC_TUNABLES": ""}) as server:
        server.wait_ready()
        assert server.get("/v1/privacy").json()["held"]["freed memory"] == "left as it is"
        ask_everything(server, canaries)
        assert {"word", "scan"} <= canaries.found(memory(server.pid))
    with Serving(tmp_path, tiny_bundle, "--log-content") as server:
        server.wait_ready()
        ask_everything(server, canaries)
        assert "word" in canaries.found(server.log.encode())


#: A camera of 320x256 that sends the portrait, with a pattern in one of its rows.
SOURCE = """
import sys, time, cv2, numpy as np
photo, pattern = cv2.resize(cv2.imread(sys.argv[1]), (320, 256)), bytes.fromhex(sys.argv[2])
out, rng = sys.stdout.buffer, np.random.default_rng(0)
out.write(b"YUV4MPEG2 W320 H256 F10:1 C420jpeg\\n")
while True:
    noisy = np.clip(photo + rng.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
    data = bytearray(cv2.cvtColor(noisy, cv2.COLOR_BGR2YUV_I420).tobytes())
    data[100:100 + len(pattern)] = pattern
    out.write(b"FRAME\\n" + data)
    out.flush()
    time.sleep(0.1)
"""


def test_nothing_of_somebody_in_front_of_the_camera_stays(tiny_bundle: Path, tmp_path: Path):
    temporary, pattern = tmp_path / "tmp", secrets.token_bytes(40)
    temporary.mkdir()
    (tmp_path / "source.py").write_text(SOURCE)
    word = "quux" + secrets.token_hex(6)
    command = shlex.join([sys.executable, str(tmp_path / "source.py"), str(PHOTO), pattern.hex()])
    options = ("--kiosk", "--camera", f"cmd:{command}", "--camera-size", "320x256")
    with Serving(tmp_path, tiny_bundle, *options, env={"TMPDIR": str(temporary), "HOME": str(temporary)}) as server:
        server.wait_ready()
        server.post("/v1/consent")
        tracks: list[str] = []

        def somebody() -> bool:
            with httpx.stream("GET", f"{server.url}/v1/camera/events?preview=320", timeout=30) as stream:
                for line in stream.iter_lines():
                    if line.startswith("data: ") and '"people":[{' in line:
                        people = json.loads(line.removeprefix("data: "))["people"]
                        tracks.extend(p["track"] for p in people if p["labels"])
                        return bool(tracks)
            return False

        server.wait(somebody)
        assert server.post("/v1/camera/ask", json={"question": f"Is the {word} smiling?"}).status_code == 200
        # It is there while it is needed: the search can find it.
        server.wait(lambda: pattern in memory(server.pid) or pattern in memory(server.worker), 20)
        httpx.delete(f"{server.url}/v1/consent")
        time.sleep(0.3)
        for pid in (server.pid, server.worker):
            held = memory(pid)
            assert pattern not in held
            assert word.encode() not in held
            assert tracks[-1].encode() not in held
        said = (server.get("/metrics").text + server.log + server.get("/v1/privacy").text).encode()
        assert not any(trace in said for trace in (word.encode(), tracks[-1].encode()))
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "source.py"]
    assert not [p for p in files if pattern in p.read_bytes() or word.encode() in p.read_bytes()]
