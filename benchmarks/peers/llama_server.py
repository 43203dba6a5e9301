"""Our local server beside llama.cpp's llama-server: questions, an overload, a killed process, malformed requests.

    python benchmarks/peers/llama_server.py --llama-server PATH --out llama-server.json     (ten minutes on two cores)
    python benchmarks/peers/llama_server.py --llama-server PATH --out OUT --repeats 3 --seconds 2 --kills 1 --rounds 1

Both servers run the LLM of the bundle `nano` as it is shipped, with the same number of threads. llama-server cannot run
the bundle's face encoder, so it gets vision encoders of its own format, once of the size that the smallest real
vision language models have and once as small as nano's. THEIR WEIGHTS ARE RANDOM: time and behaviour are measured,
quality never is, and nothing here says how good an answer of llama-server would be. Ours finds the face first, reads
its characteristics and checks each answer against them; llama-server does nothing of that kind.

All options of llama-server but model, encoder, threads and port are its defaults. Requests are the same bytes for both.
Run it on an otherwise idle machine; everything stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import onnx

from chat_servers import (
    AFTER_KILL,
    QUESTIONS,
    Answer,
    Arm,
    LlamaRouter,
    LlamaServer,
    Ours,
    Pictures,
    answered,
    chat,
    raw_request,
    running,
    said,
    spread,
)
from faceinsight import __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.host.machine import cores
from malformed_requests import malformed
from serve import PHOTO
from vision_towers import TOWERS, Tower, write_tower

#: The longest request that both take: so many new pictures, and at most so many tokens. Ours ends by itself before.
LONGEST, LONGEST_TOKENS = 4, 512
STEPS = ("questions", "overload", "disconnect", "malformed", "kills")
#: What llama-server can do and ours cannot, and where its own files say so (README.md is that of tools/server).
BETTER_THERE = {
    "any language model in GGUF, quantized as wished, on CPUs and many GPUs": "README.md, Features; docs/build.md",
    "any question about anything in a picture; sound and video with models for them": "README.md, docs/multimodal.md",
    "a conversation: all messages are read, system messages too": "server-common.cpp, oaicompat_chat_params_parse",
    "sampling: temperature, top-k, top-p, min-p, mirostat, DRY, XTC, seeds, logit bias": "README.md, Sampling params",
    "several requests at a time: slots with continuous batching": "README.md, --parallel and --cont-batching",
    "nobody is turned away: whoever waits long enough is answered": "server-queue.cpp, post and defer: no limit",
    "tools (function calling) for nearly any model": "README.md, Features; docs/function-calling.md",
    "JSON schemas with patterns, numbers of items, alternatives; any grammar": "README.md; grammars/README.md",
    "probabilities of the likeliest tokens at each place; several completions": "server-schema.cpp, n_probs and n_cmpl",
    "OpenAI's completions, responses and embeddings; reranking; Anthropic's messages": "README.md, API Endpoints",
    "several models behind one address, loaded on demand, and again after a crash": "README.md, Using multiple models",
    "speculative decoding; LoRA adapters that are switched while it runs": "README.md, --spec-type and /lora-adapters",
    "what was read of any earlier prompt is kept, in memory or in a file": "README.md, --cache-ram, --slot-save-path",
    "streams that go on behind a lost connection": "server-stream.h",
    "TLS; several API keys": "README.md, --ssl-key-file and --api-key",
    "a page for the browser": "README.md, --ui",
    "one program, without Python": "README.md, Build",
}


def first_and_second(arms: Sequence[Arm], pictures: Pictures, repeats: int) -> dict[str, Any]:
    """(a), (b): a question about a new picture, then another one about it; in turn. Two rounds warm up."""
    times: dict[str, list[list[float]]] = {arm.name: [[], []] for arm in arms}
    usage: dict[str, list[Any]] = {arm.name: [] for arm in arms}
    for i in range(repeats + 2):
        for arm in [*arms[i % len(arms) :], *arms[: i % len(arms)]]:
            picture = pictures.new()
            answers = [answered(arm.ask(chat([picture], QUESTIONS[(i + k) % len(QUESTIONS)]))) for k in (0, 1)]
            usage[arm.name] = [a.data["usage"] for a in answers]
            if i >= 2:
                for k, answer in enumerate(answers):
                    times[arm.name][k].append(answer.seconds)
    return {
        arm.name: {
            "first question": spread(times[arm.name][0]),
            "second question": spread(times[arm.name][1]),
            "tokens of the last two": [
                {
                    "read": u["prompt_tokens"],
                    "of these from the cache": u.get("prompt_tokens_details", {}).get("cached_tokens", 0),
                    "written": u["completion_tokens"],
                }
                for u in usage[arm.name]
            ],
        }
        for arm in arms
    }


def overload(arm: Arm, pictures: Pictures, clients: int, seconds: float) -> dict[str, Any]:
    """(c): clients that ask about another picture as soon as they have an answer, and again if they are turned away."""
    alone = [answered(arm.ask(chat([pictures.new()], QUESTIONS[0]))).seconds for _ in range(5)]
    answers: list[Answer] = []
    from_first_try: list[float] = []
    health: list[float] = []
    before = arm.resident_mb()
    began = time.perf_counter()

    def client() -> None:
        while time.perf_counter() - began < seconds:
            body, first = chat([pictures.new()], QUESTIONS[0]), time.perf_counter()
            while time.perf_counter() - began < seconds:
                answer = arm.ask(body)
                answers.append(answer)
                if answer.status == "200":
                    from_first_try.append(time.perf_counter() - first)
                if answer.status not in ("429", "503"):
                    break
                time.sleep(0.05)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        health.append(arm.get("/health").seconds)
        time.sleep(0.2)
    took, after = time.perf_counter() - began, arm.resident_mb()
    statuses = Counter(a.status for a in answers)
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": dict(statuses),
        "turned away": statuses["429"] + statuses["503"],
        "of these with Retry-After": sum("retry-after" in a.headers for a in answers if a.status in ("429", "503")),
        "answers per s": round(statuses["200"] / took, 1),
        "one client alone": spread(alone),
        "admitted": spread([a.seconds for a in answers if a.status == "200"]),
        "from the first try on": spread(from_first_try),
        "GET /health meanwhile": spread(health),
        "resident MB before": before,
        "resident MB after": after,
        "kB more per answer": round((after - before) * 1e3 / max(statuses["200"], 1), 1),
    }


def long_one(pictures: Pictures, **more: Any) -> bytes:
    """The longest request."""
    return chat([pictures.new() for _ in range(LONGEST)], QUESTIONS[1], max_tokens=LONGEST_TOKENS, **more)


def kills(arm: Arm, pictures: Pictures, count: int) -> dict[str, Any]:
    """(d): SIGKILL to the process that computes, in the middle of a request; then a question until it is answered.

    More than four deaths of our worker in a minute would be taken for a fault of the bundle, so many keep a distance.
    """
    lost: Counter[str] = Counter()
    tries: Counter[str] = Counter()
    again: list[float] = []
    restarts: list[float] = []
    for i in range(count):
        if i and count > 4:
            time.sleep(16)
        lost[said(_kill_during_one(arm, pictures))] += 1
        began = time.perf_counter()
        while time.perf_counter() - began < AFTER_KILL:
            answer = arm.ask(chat([pictures.new()], QUESTIONS[0]), AFTER_KILL)
            tries[answer.status] += 1
            if answer.status == "200":
                again.append(time.perf_counter() - began)
                break
            time.sleep(0.02)
        else:
            arm.stop()
            began = time.perf_counter()
            arm.start()
            answered(arm.ask(chat([pictures.new()], QUESTIONS[0])))
            restarts.append(time.perf_counter() - began)
    return {
        "kills": count,
        "the request under way got": dict(lost),
        "a question right behind it got": dict(tries),
        "until it was answered": spread(again),
        "by itself": "yes" if len(again) == count else "not by itself" if not again else f"{len(again)} of {count}",
        "restarted by this script, until answered": spread(restarts),
    }


def _kill_during_one(arm: Arm, pictures: Pictures) -> Answer:
    """What the request gets whose process is killed under it. It comes at once: the connection to it is closed."""
    alone = min(answered(arm.ask(long_one(pictures))).seconds for _ in range(2))
    for _ in range(10):
        got: list[Answer] = []
        thread = threading.Thread(target=lambda to=got: to.append(arm.ask(long_one(pictures))))
        thread.start()
        time.sleep(alone * 0.4)
        pid = arm.computing
        assert pid
        if thread.is_alive():
            os.kill(pid, signal.SIGKILL)
            thread.join()
            return got[0]
        thread.join()
    raise RuntimeError(f"{arm.name}: the request was always over before the process could be killed")


def disconnect(arm: Arm, pictures: Pictures, repeats: int) -> dict[str, Any]:
    """(f): the longest request that both take, whose client leaves early or late; and a question right behind it.

    Early, pictures are being looked at; late, the answer is being written.
    """
    known = pictures.new()
    answered(arm.ask(chat([known], QUESTIONS[0])))

    def next_one(i: int) -> float:
        return answered(arm.ask(chat([known], QUESTIONS[i % len(QUESTIONS)]))).seconds

    def leave(share: float, stream: bool) -> None:
        with socket.create_connection(("127.0.0.1", arm.port)) as connection:
            connection.sendall(raw_request(arm.port, long_one(pictures, stream=stream)))
            time.sleep(whole * share)

    alone = [answered(arm.ask(long_one(pictures))).seconds for _ in range(3)]
    whole = min(alone)
    # Two minutes where it is long.
    repeats = max(2, min(repeats, int(10 / whole)))
    ways = [(share, stream) for share in (0.2, 0.8) for stream in (False, True)]
    behind: dict[str, list[float]] = {}
    goes_on: dict[str, list[float]] = {}
    for i in range(repeats):
        behind.setdefault("nobody", []).append(next_one(i))
        thread = threading.Thread(target=arm.ask, args=(long_one(pictures),))
        thread.start()
        time.sleep(whole * 0.2)
        behind.setdefault("one that stays", []).append(next_one(i))
        thread.join()
        for share, stream in ways:
            name = f"{'a stream' if stream else 'one'} that left after {share:.0%}"
            leave(share, stream)
            behind.setdefault(name, []).append(next_one(i))
            _computes_on(arm)
            leave(share, stream)
            goes_on.setdefault(name, []).append(_computes_on(arm))
    return {
        "the long request": spread(alone),
        "a question behind": {name: spread(found) for name, found in behind.items()},
        "computes on after the client left": {name: spread(found) for name, found in goes_on.items()},
    }


def _computes_on(arm: Arm) -> float:
    """Seconds until its processes take less than a fifth of a core, for a fifth of a second."""
    began = last = time.perf_counter()
    used = arm.cpu_seconds()
    while time.perf_counter() - began < 60:
        time.sleep(0.05)
        now, taken = time.perf_counter(), arm.cpu_seconds()
        if taken - used >= 0.015:
            last = now
        used = taken
        if now - last > 0.2:
            break
    return last - began


def sizes(bundle: str, folder: Path) -> dict[str, Any]:
    """What computes on each side. Writes llama-server's vision encoders into the folder."""
    opened = Bundle.open(bundle)
    llm = opened.file(opened.manifest.llm.file)
    reader = gguf.GGUFReader(llm)
    width = int(reader.fields["llama.embedding_length"].contents())
    graphs = {p.name: onnx.load(str(p)).graph for p in sorted(llm.parent.glob("*.onnx"))}
    towers = {}
    for tower in TOWERS:
        path = tower_path(folder, tower)
        towers[tower.name] = {
            "parameters": write_tower(tower, width, path),
            "MB": round(path.stat().st_size / 1e6, 1),
            "weights": "random",
            "pixels": [tower.image, tower.image],
            "image tokens": tower.tokens,
        }
    return {
        "the LLM of both": {
            "parameters": sum(int(t.n_elements) for t in reader.tensors),
            "MB": round(llm.stat().st_size / 1e6, 1),
            "width": width,
        },
        "ours, beside it": {
            "parameters": {name: sum(math.prod(t.dims) for t in graph.initializer) for name, graph in graphs.items()},
            "image tokens": opened.manifest.encoder.image_tokens,
        },
        "theirs, beside it": towers,
    }


def tower_path(folder: Path, tower: Tower) -> Path:
    """Where its file is."""
    return folder / f"tower-{tower.width}.gguf"


def version(binary: str) -> str:
    """What llama-server says of itself."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return " ".join((done.stdout + done.stderr).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True, metavar="PATH")
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--threads", type=int, default=cores(), help="of each server (all cores)")
    parser.add_argument("--repeats", type=int, default=30, help="questions; a third of them for clients that leave")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of the overload")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="of the malformed requests")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    # What ends this script ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pictures = Pictures(args.photo)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result: dict[str, Any] = {
            "faceinsight": __version__,
            "llama-server": version(args.llama_server),
            "machine": machine(),
            "threads of each": args.threads,
            "bundle_sha256": Bundle.open(args.bundle).sha256,
            "photo": {"JPEG kB": round(len(pictures.jpeg) / 1e3, 1)},
            "sizes": sizes(args.bundle, folder),
        }
        opened = Bundle.open(args.bundle)
        llm = opened.file(opened.manifest.llm.file)
        ours = Ours(args.bundle, args.threads)
        theirs = [LlamaServer(t.name, args.llama_server, llm, tower_path(folder, t), args.threads) for t in TOWERS]
        small = tower_path(folder, TOWERS[-1])
        router = LlamaRouter(f"{TOWERS[-1].name}, router mode", args.llama_server, llm, small, args.threads)
        if "questions" in args.only:
            with running([ours, *theirs]):
                result["questions"] = first_and_second([ours, *theirs], pictures, args.repeats)
        steps: dict[str, tuple[list[Arm], Callable[[Arm], dict[str, Any]]]] = {
            "overload": ([ours, *theirs], lambda a: overload(a, pictures, args.clients, args.seconds)),
            "disconnect": ([ours, *theirs], lambda a: disconnect(a, pictures, max(1, args.repeats // 3))),
            "malformed": ([ours, theirs[-1]], lambda a: malformed(a, pictures, args.rounds)),
            "kills": ([ours, theirs[-1], router], lambda a: kills(a, pictures, args.kills)),
        }
        for name, (arms, step) in steps.items():
            if name not in args.only:
                continue
            result[name] = {}
            for arm in arms:
                print(f"{time.perf_counter() - began:5.0f} s  {name}: {arm.name}", file=sys.stderr)
                with running([arm]):
                    result[name][arm.name] = step(arm)
    result["better_there"] = [{"what": what, "said in llama.cpp's": where} for what, where in BETTER_THERE.items()]
    result["seconds"] = round(time.perf_counter() - began)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
