"""NVIDIA's own software without a GPU: TensorRT-RTX builds plans of every graph, and TensorRT's bindings have every
name that is used, in the versions of JetPack 6 and 7 and of the desktop. `make test-nvidia` installs the wheels."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faceinsight import DeviceError
from faceinsight.backends.tensorrt import build as builder
from faceinsight.backends.tensorrt.engines import EngineCache, key_of
from faceinsight.backends.tensorrt.target import OLDEST
from nvidia_builder import RTX, make_tensorrt

pytestmark = pytest.mark.nvidia

RUNTIME = Path(builder.__file__).parents[1]


def installed(name: str) -> Path:
    """The folder that a wheel is installed in; skips the test where it is not."""
    try:
        return Path(str(importlib.metadata.distribution(name).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: make test-nvidia")


def all_bindings() -> Iterator[Path]:
    """The builder's, and those in folders of their own."""
    yield installed("tensorrt-cu13-bindings")
    folders = os.environ.get("FACEINSIGHT_BINDINGS")
    if folders is None:
        pytest.skip("FACEINSIGHT_BINDINGS names no folder: make test-nvidia")
    yield from sorted(path for path in Path(folders).iterdir() if path.is_dir())


@pytest.fixture
def target(tmp_path: Path):
    """NVIDIA's builder is `tensorrt` for child processes."""
    installed(RTX.replace("_", "-") + "-cu13")
    plans = pytest.importorskip("plans", reason="needs torch, transformers and onnx")
    with plans.nvidia(tmp_path, installed("tensorrt-cu13-bindings")) as found:
        yield found


def test_nvidia_builds_plans_of_every_graph(target, tmp_path: Path):
    """Of nano, and of a vision encoder in each precision with all and with fewer tokens."""
    import plans

    made = 0
    for name, model in plans.graphs(tmp_path):
        found = plans.build(model, target, tmp_path / "engines")
        # A plan holds the weights.
        assert found["plan MB"] > model.stat().st_size / 1e6 / 2, name
        made += 1
    assert made == 11
    assert len(list((tmp_path / "engines").glob("*.plan"))) == made


def test_nvidia_builds_plans_in_half_precision(target, tmp_path: Path):
    """Its parser takes the types that our graphs state: a strongly typed network converts nothing by itself."""
    import plans

    made = 0
    for name, model in plans.graphs(tmp_path):
        if plans.precisions(name) == ("fp32", "fp16"):
            single, half = (plans.build(model, target, tmp_path / p, precision=p) for p in ("fp32", "fp16"))
            # A table stays as it is.
            assert half["plan MB"] < single["plan MB"] * (1.01 if "knowledge" in name else 0.9), name
            made += 1
    assert made == 7


def test_its_parser_names_the_operator_that_it_does_not_know(target, tmp_path: Path):
    """What NVIDIA says of it is "false", once for each of them."""
    import plans

    model = tmp_path / "vision.onnx"
    plans.write_tiny_vision(model, "int8")
    key = key_of(model, target)
    nowhere, out = tmp_path / "none", tmp_path / "out"
    with pytest.raises(DeviceError, match="its ONNX parser says: DynamicQuantizeLinear ") as error:
        builder.build(model, key.onnx_sha256, dict(key.profile), nowhere, out, tmp_path / "t", lambda line: None)
    assert str(error.value).count("DynamicQuantizeLinear") == 1
    assert not out.exists()
    with pytest.raises(DeviceError, match="--vision fp16 or int8-static"):
        EngineCache(tmp_path / "engines").build(key, model, lambda line: None)


def test_a_plan_cannot_be_run_here_and_is_not_taken_for_one_that_was(target, tmp_path: Path):
    """Without a GPU the comparison with ONNX Runtime fails, so no plan is kept."""
    import plans

    model = tmp_path / "vision.onnx"
    plans.write_tiny_vision(model, "fp32")
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(DeviceError, match="its new TensorRT plan does not run"):
        cache.build(key_of(model, target), model, lambda line: None)
    assert not list(cache.folder.glob("*.plan"))


#: Objects of TensorRT by the names that they have in our code.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "parser": "OnnxParser",
    "error": "ParserError",
    "cache": "ITimingCache",
    "engine": "ICudaEngine",
    "runtime": "Runtime",
    "context": "IExecutionContext",
}
#: What is looked up in each version: names below `tensorrt`, and attributes of its classes with their arguments.
SCRIPT = """
import json, sys
import tensorrt as trt
def find(name):
    found = trt
    for part in name.split("."):
        found = getattr(found, part)
    return found
missing, documented = [], {}
for name in json.loads(sys.argv[1]):
    try:
        documented[name] = find(name).__doc__ or ""
    except AttributeError:
        missing.append(name)
find("NetworkDefinitionCreationFlag.STRONGLY_TYPED")
print(json.dumps({"version": trt.__version__, "missing": missing, "documented": documented}))
"""


def names_used() -> tuple[set[str], dict[str, int]]:
    """Every name of TensorRT in the runtime's code, and of its methods how many arguments they are given."""
    names, arguments = set(), {}
    files = [RUNTIME / "tensorrt" / f"{name}.py" for name in ("build", "session", "target")]
    for path in [*files, RUNTIME / "probes.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.func if isinstance(node, ast.Call) else node
            if not isinstance(call, ast.Attribute):
                continue
            text = ast.unparse(call).removeprefix("self._").removeprefix("prepared.")
            owner, _, name = text.rpartition(".")
            if owner.split(".")[0] == "trt":
                names.add(text.removeprefix("trt."))
            elif owner in CLASSES and f"{owner}." in text:
                full = f"{CLASSES[owner]}.{name}"
                names.add(full)
                if isinstance(node, ast.Call):
                    given = len(node.args) + len(node.keywords)
                    arguments[full] = -1 if any(isinstance(a, ast.Starred) for a in node.args) else given
    return names, arguments


def test_every_name_of_tensorrt_is_in_every_version(tmp_path: Path):
    """A name that was renamed shows on a board only, in a child process, after minutes."""
    names, arguments = names_used()
    assert {"Builder", "Runtime", "IExecutionContext.set_device_memory", "IBuilderConfig.progress_monitor"} <= names
    assert len(arguments) >= 20
    versions = set()
    for number, wheels in enumerate(all_bindings()):
        site = tmp_path / str(number)
        make_tensorrt(site, wheels, build=False)
        path = os.pathsep.join([str(site), str(wheels)])
        command = [sys.executable, "-c", SCRIPT, json.dumps(sorted(names))]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["missing"] == [], found["version"]
        for name, given in arguments.items():
            assert given == -1 or takes(found["documented"][name], given), (found["version"], name, given)
        versions.add(tuple(int(n) for n in found["version"].split(".")[:2]))
    assert min(versions) == OLDEST
    assert {major for major, _ in versions} == {10, 11}


def takes(documented: str, given: int) -> bool:
    """Does a signature that pybind11 documents take so many arguments besides self? One of several will do."""
    for line in documented.splitlines():
        inside = line.partition("(self: ")[2].rpartition(") ->")[0]
        if inside:
            parts = ast.parse(f"def f(self: {inside}): ...") if _parses(inside) else None
            if parts is None:
                return True  # a default that is no Python, such as an enum's
            signature = parts.body[0].args
            least = len(signature.args) - 1 - len(signature.defaults)
            if least <= given <= len(signature.args) - 1:
                return True
    return not documented or "(self: " not in documented


def _parses(inside: str) -> bool:
    try:
        ast.parse(f"def f(self: {inside}): ...")
    except SyntaxError:
        return False
    return True


def test_a_wrong_number_of_arguments_is_found():
    text = "parse(self: t.OnnxParser, model: Buffer, path: str = None) -> bool"
    assert [takes(text, n) for n in range(4)] == [False, True, True, False]
    assert not takes("1. f(self: T, a: int) -> int\n2. f(self: T, a: int, b: int) -> int", 3)
