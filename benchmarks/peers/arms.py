"""One peer in a process of its own: commands as JSON lines on stdin, results on stdout. Started by run.py.

new     a picture it has not seen, and a question: seconds to the first token, and to the last
again   another question about that picture
back    a question about the picture before that one
report  eight closed questions about the picture, with the probabilities of their answers
memory  peak resident memory, MB (10^6 bytes)
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from greedy import TOKENS, Greedy, shorten

sys.path.append(str(Path(__file__).parents[1]))
from memory import PEAK, memory_mb


class Arm(Protocol):
    def show(self, picture: Path) -> Any:
        """What it needs of a picture, other than looking at it."""
        ...

    def tokens(self, picture: Any, question: str) -> Iterable[float]:
        """Answer: when each token was there, by time.perf_counter."""
        ...

    def choose(self, picture: Any, questions: list[str]) -> None:
        """Probabilities of Yes and No for each question."""
        ...


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture (H,W,3)."""
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise FileNotFoundError(f"{path} is no picture that OpenCV reads")
    return np.ascontiguousarray(bgr[:, :, ::-1])


class Ours:
    """FaceInsight. It is given the photo and finds the face itself; the others are given the face's picture."""

    def __init__(self, bundle: Path | str) -> None:
        from faceinsight import FaceInsight

        self._insight = FaceInsight.load(bundle, device="cpu")
        self._faces: dict[int, Any] = {}

    def show(self, picture: Path) -> Any:
        return read_rgb(picture.with_name(picture.name.replace("face", "photo")))

    def _face(self, photo: Any) -> Any:
        if id(photo) not in self._faces:
            (self._faces[id(photo)],) = self._insight.perceive(photo)
        return self._faces[id(photo)]

    def tokens(self, picture: Any, question: str) -> Iterable[float]:
        pieces = self._insight.unchecked(self._face(picture), question, max_tokens=TOKENS)
        return [time.perf_counter() for _ in pieces]

    def choose(self, picture: Any, questions: list[str]) -> None:
        self._insight.choose(self._face(picture), questions)


class Handler:
    """llama-cpp-python's Llava15ChatHandler. best: all cores, and large enough batches; else as it comes."""

    def __init__(self, folder: Path, *, best: bool) -> None:
        import llama_cpp
        from llama_cpp.llama_chat_format import Llava15ChatHandler

        cores = len(os.sched_getaffinity(0))
        better = {"n_threads": cores, "n_threads_batch": cores, "n_batch": 1024, "n_ubatch": 1024} if best else {}
        self._llama = llama_cpp.Llama(
            str(folder / "ours" / "llm.gguf"),
            n_ctx=1536,
            verbose=False,
            logits_all=False,
            chat_handler=Llava15ChatHandler(str(folder / "clip.gguf"), verbose=False),
            **better,
        )

    def show(self, picture: Path) -> Any:
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()

    def _ask(self, picture: str, question: str, **more: Any) -> Any:
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
        return self._llama.create_chat_completion([{"role": "user", "content": content}], temperature=0, **more)

    def tokens(self, picture: Any, question: str) -> Iterable[float]:
        times: list[float] = []

        def note_time(ids: Any, logits: Any) -> Any:
            # Its stream holds back what is no text yet: this is called when a token's logits are there.
            times.append(time.perf_counter())
            return logits

        self._ask(picture, question, max_tokens=TOKENS, logits_processor=[note_time])
        return times

    def choose(self, picture: Any, questions: list[str]) -> None:
        # Probabilities would need logits of all positions: its first token is what it gives at once.
        for question in questions:
            self._ask(picture, question, max_tokens=1)


class Server:
    """llama-server of the same llama.cpp, over HTTP on this machine; one slot. It keeps pictures' prefixes itself."""

    def __init__(self, folder: Path, binary: str) -> None:
        cores = str(len(os.sched_getaffinity(0)))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        model, clip = folder / "ours" / "llm.gguf", folder / "clip.gguf"
        command = [
            binary,
            "-m",
            model,
            "--mmproj",
            clip,
            "-c",
            "1536",
            "-t",
            cores,
            "-tb",
            cores,
            "-np",
            "1",
            "-b",
            "1024",
            "-ub",
            "1024",
            "--host",
            "127.0.0.1",
            "--port",
            self._port,
        ]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                with self._open("/health") as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.02)
                if self.process.poll() is not None:
                    raise RuntimeError(f"{binary} did not start") from None
        with self._open("/props") as answer:
            self._marker = json.load(answer).get("media_marker", "<__media__>")

    def _open(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}", body, {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request)

    def show(self, picture: Path) -> Any:
        return base64.b64encode(picture.read_bytes()).decode()

    def _ask(self, picture: str, question: str, **more: Any) -> Any:
        text = f"A chat between a curious user and an artificial intelligence assistant. USER: {self._marker}\n"
        prompt = {"prompt_string": f"{text}{question} ASSISTANT:", "multimodal_data": [picture]}
        return self._open("/completion", {"prompt": prompt, "temperature": 0, "cache_prompt": True, **more})

    def tokens(self, picture: Any, question: str) -> Iterable[float]:
        with self._ask(picture, question, n_predict=TOKENS, ignore_eos=True, stream=True) as lines:
            return [time.perf_counter() for line in lines if line.startswith(b"data:")]

    def choose(self, picture: Any, questions: list[str]) -> None:
        for question in questions:
            with self._ask(picture, question, n_predict=1, n_probs=20) as answer:
                json.load(answer)


class Transformers(Greedy):
    """transformers' LlavaForConditionalGeneration on torch. best: it keeps the picture's keys and values by hand; half:
    it computes in bfloat16, for which some CPUs have units."""

    def __init__(self, folder: Path, *, best: bool, half: bool = False) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._torch, self._best = torch, best
        kind = torch.bfloat16 if half else torch.float32
        self._model = LlavaForConditionalGeneration.from_pretrained(folder / "checkpoint", torch_dtype=kind)
        self._model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint")
        size = self._model.config.vision_config.image_size
        square = {"height": size, "width": size}
        self._processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square)
        self._patches = (size // self._model.config.vision_config.patch_size) ** 2
        self._known: tuple[Any, Any, int] | None = None

    def show(self, picture: Path) -> Any:
        return read_rgb(picture)

    def _ids(self, text: str) -> Any:
        return self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]

    def _prefix(self, picture: Any) -> Any:
        """Keys and values of the prompt up to behind the picture."""
        torch = self._torch
        pixels = self._processor(picture, return_tensors="pt")["pixel_values"].to(self._model.dtype)
        before = self._ids("<s>A chat between a curious user and an artificial intelligence assistant. USER: ")
        image = torch.full((1, self._patches), self._model.config.image_token_index)
        ids = torch.cat([before, image], 1)
        return self._model(input_ids=ids, pixel_values=pixels, use_cache=True)[self._cache]

    def _first(self, picture: Any, question: str) -> Any:
        """The model's output behind the question."""
        if not self._best or self._known is None or self._known[0] is not picture:
            past = self._prefix(picture)
            self._known = (picture, past, past.get_seq_length())
        _, past, length = self._known
        shorten(past, length)
        asked = self._ids(f"\n{question} ASSISTANT:")
        return self._model(input_ids=asked, use_cache=True, **{self._cache: past})


def _nano(folder: Path, *, best: bool) -> Arm:
    from nano import TransformersNano

    return TransformersNano(folder, best=best)


def make(name: str, folder: Path, server: str) -> Arm:
    """The arm of this name."""
    makers: dict[str, Callable[[], Arm]] = {
        "ours": lambda: Ours(folder / "ours"),
        "ours, a quarter of the tokens": lambda: Ours(folder / "ours-quarter"),
        "nano": lambda: Ours("nano"),
        "nano on transformers, best": lambda: _nano(folder, best=True),
        "nano on transformers, defaults": lambda: _nano(folder, best=False),
        "chat handler, defaults": lambda: Handler(folder, best=False),
        "chat handler, best": lambda: Handler(folder, best=True),
        "llama-server": lambda: Server(folder, server),
        "transformers, defaults": lambda: Transformers(folder, best=False),
        "transformers, best": lambda: Transformers(folder, best=True),
        "transformers, bfloat16": lambda: Transformers(folder, best=True, half=True),
    }
    return makers[name]()


def answer(arm: Arm, picture: Any, question: str) -> dict[str, float]:
    """Seconds."""
    began = time.perf_counter()
    times = [t - began for t in arm.tokens(picture, question)]
    per_token = float(np.mean(np.diff(times))) if len(times) > 1 else 0.0
    return {"first": times[0], "all": times[-1], "token": per_token, "tokens": len(times)}


def main() -> None:
    name, folder, server = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    # llama.cpp and others write to stdout as they like: results go to the real one.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    arm = make(name, folder, server)
    pictures: dict[str, Any] = {}
    for line in sys.stdin:
        command = json.loads(line)
        out: dict[str, float]
        if command["do"] == "memory":
            process = getattr(arm, "process", None)
            out = {"MB": memory_mb(PEAK, process.pid if process else "self")}
        else:
            path = command["picture"]
            if path not in pictures:
                pictures[path] = arm.show(Path(path))
            if command["do"] == "report":
                began = time.perf_counter()
                arm.choose(pictures[path], command["questions"])
                out = {"all": time.perf_counter() - began}
            else:
                out = answer(arm, pictures[path], command["question"])
        results.write(json.dumps(out) + "\n")
        results.flush()
    process = getattr(arm, "process", None)
    if process:
        process.terminate()


if __name__ == "__main__":
    main()
