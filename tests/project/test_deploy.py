"""What deploy/ promises: images, compose files, nginx and the dashboard fit the server that they are for."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT

pytest.importorskip("starlette", reason="the extra server")
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving

from faceinsight.cli.main import _parser
from faceinsight.server.metrics import Metrics
from faceinsight.server.options import Options, gather

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*Dockerfile"))
OVERLAYS = ("compose.gpu.yaml", "compose.jetson.yaml", "compose.jetson7.yaml")
JETSON = ("jetson.Dockerfile", "jetson7.Dockerfile")
NGINX = DEPLOY / "nginx" / "faceinsight.conf"
NAME = "faceinsight.example"


def named(path: Path | str) -> str:
    return getattr(path, "name", str(path))


# Images


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction and its text, without comments."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def last_stage(dockerfile: Path) -> list[tuple[str, str]]:
    found = instructions(dockerfile)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def one(found: list[tuple[str, str]], word: str) -> str:
    (text,) = (t for w, t in found if w == word)
    return text


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_there_is_an_image_for_each_kind_of_machine():
    assert [p.name for p in DOCKERFILES] == ["Dockerfile", "gpu.Dockerfile", *JETSON]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=named)
def test_an_image_is_small_and_nobody_is_root_in_it(dockerfile: Path):
    found, last = instructions(dockerfile), last_stage(dockerfile)
    for image in (text.split()[0] for word, text in found if word == "FROM"):
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", image)
        assert not image.endswith(":latest")
    assert [word for word, _ in found].count("FROM") == 2
    assert int(one(last, "USER")) >= 1000
    words = [word for word, _ in last]
    assert "RUN" not in words[words.index("USER") :]
    runs = " ".join(text for word, text in last if word == "RUN")
    assert "build-essential" not in runs
    assert "--no-index" in runs
    assert "libgomp1" in runs
    assert one(last, "EXPOSE") == "8080"
    assert one(last, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=named)
def test_an_image_has_what_the_project_says(dockerfile: Path):
    text, metadata = dockerfile.read_text(), project()["project"]
    (llama,) = (x for x in metadata["optional-dependencies"]["cpu"] if x.startswith("llama-cpp-python"))
    assert re.findall(r'"(llama-cpp-python[^"]+)"', text) == [llama]
    for extras in re.findall(r"\[([a-z,]+)\]\"", text):
        assert set(extras.split(",")) <= set(metadata["optional-dependencies"])
    pages = "".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    assert [url for url in re.findall(r"https?://[^\s'\"]+", text) if "127.0.0.1" not in url and url not in pages] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=named)
def test_an_image_starts_the_server_as_it_can_be_started(dockerfile: Path):
    last = last_stage(dockerfile)
    environ = dict(pair.split("=", 1) for word, text in last if word == "ENV" for pair in shlex.split(text))
    options = served(json.loads(one(last, "ENTRYPOINT")), environ)
    assert (options.host, options.port) == ("0.0.0.0", 8080)
    assert options.token_file == "/run/secrets/faceinsight_token"
    assert options.device == {"gpu": "cuda", "jetson": "tensorrt", "jetson7": "tensorrt"}.get(
        dockerfile.name.split(".")[0], "auto"
    )


def served(words: list[str], environ: dict[str, str]) -> Options:
    """The options that a command line gives the server."""
    assert words[:2] == ["faceinsight", "serve"]
    return gather(vars(_parser().parse_args(words[1:])), environ, None)


def test_what_is_copied_into_an_image_is_what_the_wheel_is_built_from():
    first, *rest = (x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and not x.startswith("#"))
    assert first == "*"
    copied = [x[1:] for x in rest if x.startswith("!")]
    assert [x for x in copied if not (ROOT / x).exists()] == []
    metadata = project()
    needed = metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = [*needed, *metadata["project"]["license-files"], metadata["project"]["readme"], "pyproject.toml"]
    assert [x for x in needed if not any(x == c or x.startswith(f"{c}/") for c in copied)] == []


def test_what_was_not_run_on_hardware_says_so():
    marked = {p.name for p in DOCKERFILES if "# not run on hardware\n" in p.read_text()}
    assert marked == {"gpu.Dockerfile", *JETSON}
    (line,) = (x for x in (DEPLOY / "README.md").read_text().splitlines() if "not run on hardware" in x.lower())
    assert all(f"`{name}`" in line for name in marked)


# Compose files


def compose(name: str) -> dict[str, Any]:
    """A compose file, with its variables as they are where none is set; one that must be set says what it is."""
    text = (DEPLOY / "docker" / name).read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", text))


def test_a_container_may_do_little_and_is_reached_from_this_machine():
    found = compose("compose.yaml")
    assert "version" not in found
    (service,) = found["services"].values()
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"] == "10s"
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["tmpfs"][0].startswith("/tmp:size=")
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert service["secrets"] == list(found["secrets"]) == ["faceinsight_token"]
    assert not {"privileged", "network_mode", "cap_add", "user"} & set(service)
    names = [f"FACEINSIGHT_SERVE_{f.upper()}" for f in Options.__dataclass_fields__]
    assert set(service["environment"]) <= set(names)
    gather({}, service["environment"], None)


@pytest.mark.parametrize("name", ["compose.yaml", *OVERLAYS])
def test_a_compose_file_builds_an_image_that_is_here(name: str):
    (service,) = compose(name)["services"].values()
    assert (ROOT / service["build"]["dockerfile"]) in DOCKERFILES
    assert re.fullmatch(r"faceinsight:(?!latest)\w+", service["image"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_loosens_nothing(name: str):
    base, over = (compose(x)["services"]["faceinsight"] for x in ("compose.yaml", name))
    assert set(over) & set(base) <= {"image", "build", "mem_limit", "memswap_limit"}
    assert not {"privileged", "network_mode", "cap_add", "user", "devices"} & set(over)


def test_a_gpu_is_asked_for():
    gpu, jetson, jetson7 = (compose(x)["services"]["faceinsight"] for x in OVERLAYS)
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert jetson["runtime"] == "nvidia"
    plans = dict(x.split(":")[:2] for x in jetson["volumes"])["engines"]
    for dockerfile in JETSON:
        words = " ".join(text for word, text in last_stage(DEPLOY / "docker" / dockerfile) if word == "ENV")
        assert f"FACEINSIGHT_ENGINES={plans}/" in words
    # For others than root, CUDA needs both.
    video, render = jetson["group_add"]
    assert (video, "number of the group render" in render) == ("video", True)
    # It is put on top of JetPack 6's, and changes what is built only.
    assert set(jetson7) == {"image", "build"}
    assert jetson7["build"]["args"] == {"CUDA_ARCHITECTURE": 87}


@pytest.mark.parametrize("name", JETSON)
def test_llama_is_compiled_for_a_jetsons_gpu(name: str):
    text = (DEPLOY / "docker" / name).read_text()
    (words,) = re.findall(r'CMAKE_ARGS="([^"]*)"', text)
    options = dict(word.removeprefix("-D").split("=") for word in words.split())
    assert options["CMAKE_CUDA_ARCHITECTURES"] == ("87" if name == JETSON[0] else "${CUDA_ARCHITECTURE}")
    assert options["GGML_CUDA"] == options["GGML_CUDA_NO_VMM"] == "on"
    # The CPU that builds may be another one.
    assert options["GGML_NATIVE"] == "off"
    assert options["GGML_CPU_ARM_ARCH"] == "armv8.2-a+dotprod+fp16"
    assert "onnxruntime-gpu" not in text or "jetson-ai-lab" in text, "PyPI's has no kernels for these GPUs"


# Commands


def commands() -> list[tuple[str, list[str]]]:
    """Every `faceinsight serve` that a file of deploy/ names, up to the end of its line."""
    found = []
    for path in sorted(p for p in DEPLOY.rglob("*") if p.is_file()):
        for match in re.finditer(r"^\W*(faceinsight serve .*)$|`(faceinsight serve[^`]*)`", path.read_text(), re.M):
            found.append((path.name, shlex.split(match[1] or match[2])))
    return found


def test_commands_have_options_that_exist():
    assert {name for name, _ in commands()} >= {"faceinsight.conf", "README.md"}
    for _, words in commands():
        served(words, {})
    with pytest.raises(SystemExit):
        served(["faceinsight", "serve", "--fast"], {})


def test_files_that_the_readme_names_are_here_and_all_are_named():
    text = (DEPLOY / "README.md").read_text()
    files = {p.relative_to(DEPLOY).as_posix() for p in DEPLOY.rglob("*") if p.is_file()} - {"README.md"}
    assert {x for x in files if x not in text and Path(x).name not in text} == set()
    assert {x for x in re.findall(r"deploy/([\w./-]+\w)", text) if not (DEPLOY / x).exists()} == set()


# The dashboard


def expositions() -> dict[str, set[str]]:
    """Every series that the server has, and the names of its labels."""
    metrics = Metrics()
    for metric in vars(metrics).values():
        if names := getattr(metric, "_labelnames", ()):
            metric.labels(*names)
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [p for p in dashboard["panels"] if p["type"] != "row"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "faceinsight.json").read_text())


def wrong(expression: str, legend: str, known: dict[str, set[str]]) -> list[str]:
    """What an expression names that the server does not expose."""
    names = re.findall(r"\b(?:faceinsight|process)_\w+", expression)
    found = [name for name in names if name not in known]
    # Prometheus adds the address that it asked.
    labels = set.intersection(*({*known.get(name, ()), "instance"} for name in names))
    grouped = {x.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for x in group.split(",")}
    matched = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression))
    shown = set(re.findall(r"{{(\w+)}}", legend))
    return found + sorted((grouped | matched | shown) - labels) + sorted(shown - grouped if grouped else ())


def test_the_dashboard_shows_what_the_server_exposes(dashboard: dict[str, Any]):
    known = expositions()
    assert known["faceinsight_requests_total"] == {"route", "code"}
    targets = [(p["title"], t) for p in panels(dashboard) for t in p["targets"]]
    assert len(targets) > 20
    assert {title: x for title, t in targets if (x := wrong(t["expr"], t["legendFormat"], known))} == {}
    queries = [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert all(re.fullmatch(r"label_values\((\w+), instance\)", q)[1] in known for q in queries)


def test_a_name_that_the_server_does_not_have_is_found():
    known = expositions()
    assert wrong("sum(rate(faceinsight_requests[5m]))", "", known) == ["faceinsight_requests"]
    assert wrong("sum by (reason) (rate(faceinsight_requests_total[5m]))", "{{reason}}", known) == ["reason"]
    assert wrong('faceinsight_faces_total{route="x"}', "", known) == ["route"]


def test_the_dashboard_fits_any_grafana(dashboard: dict[str, Any]):
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["id"] is None
    assert "uid" not in dashboard
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    assert [v["type"] for v in dashboard["templating"]["list"] if v["name"] == "DS_PROMETHEUS"] == ["datasource"]
    for panel in panels(dashboard):
        assert panel["datasource"] == source
        assert all(t["datasource"] == source for t in panel["targets"])
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    rows = [p["title"] for p in dashboard["panels"] if p["type"] == "row"]
    assert rows == ["Requests", "Queue", "LLM", "Faces", "Worker"]
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in dashboard["panels"])


@pytest.mark.slow
def test_an_image_is_healthy_once_the_server_is_ready(tiny_bundle: Path, tmp_path: Path):
    (command,) = {one(last_stage(p), "HEALTHCHECK").partition("CMD")[2] for p in DOCKERFILES}
    with Serving(tmp_path, tiny_bundle) as server:
        words = [sys.executable, *(x.replace("8080", str(server.port)) for x in json.loads(command)[1:])]
        server.wait(lambda: server.worker is not None)
        os.kill(server.worker, signal.SIGSTOP)
        assert subprocess.run(words, check=False).returncode == 1
        os.kill(server.worker, signal.SIGCONT)
        server.wait_ready()
        assert subprocess.run(words, check=False).returncode == 0
