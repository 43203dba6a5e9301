"""What deploy/jetson promises: the wheel's script as far as it goes without a board, and the units of systemd."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

from faceinsight.host.jetson import CHIPS
from faceinsight.server.systemd import unit

KIT = ROOT / "deploy" / "jetson"
PROGRAM = KIT / "cuda_wheel.py"
LLAMA = "llama_cpp_python-0.3.36-py3-none-linux_aarch64.whl"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_wheel", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_wheel"] = module
    spec.loader.exec_module(module)
    return module


def run(*words: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path)} if path else None
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


# The wheel


def test_each_board_is_compiled_for_its_gpu(script: ModuleType, tmp_path: Path):
    found = {name: (board.sm, board.cuda) for name, board in script.BOARDS.items()}
    assert found == {"orin": (87, 12), "orin-jetpack7": (87, 13), "thor": (110, 13)}
    assert {board.sm for board in script.BOARDS.values()} <= set(CHIPS.values())
    for name, board in script.BOARDS.items():
        done = run(name, "--out", tmp_path / "new", "--dry-run", "--jobs", 3, "--engine", "podman")
        words = shlex.split(done.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert words[:6] == ["podman", "run", "--rm", "--platform", "linux/arm64", "--volume"]
        assert words[6] == f"{tmp_path / 'new'}:/out"
        assert not (tmp_path / "new").exists(), "nothing is done"
        values = dict(w.split("=", 1) for flag, w in itertools.pairwise(words) if flag == "--env")
        assert f"-DCMAKE_CUDA_ARCHITECTURES={board.sm} " in values["CMAKE_ARGS"]
        assert {"-DGGML_CUDA=on", "-DGGML_NATIVE=off"} <= set(values["CMAKE_ARGS"].split())
        assert (values["SM"], values["CMAKE_BUILD_PARALLEL_LEVEL"]) == (str(board.sm), "3")
        assert values["REQUIREMENT"] in (ROOT / "pyproject.toml").read_text()
        assert words[-3:] == [board.image, "-euc", script.SCRIPT]


def test_the_images_are_those_of_the_dockerfiles_cuda(script: ModuleType):
    images = re.findall(r"^FROM (\S+)", (ROOT / "deploy/docker/jetson.Dockerfile").read_text(), re.MULTILINE)
    assert set(images) == {script.BOARDS["orin"].image}
    (other,) = set(re.findall(r"^FROM (\S+)", (ROOT / "deploy/docker/jetson7.Dockerfile").read_text(), re.MULTILINE))
    for name in ("orin-jetpack7", "thor"):
        cuda = [re.search(r":(\d+)\.", image)[1] for image in (other, script.BOARDS[name].image)]
        assert cuda == ["13", "13"]


def test_what_runs_in_the_container_is_bash(script: ModuleType):
    checked = subprocess.run(["bash", "-n"], input=script.SCRIPT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    used = set(re.findall(r"\$(\w+)", script.SCRIPT)) - {"library"}
    given = {
        w.partition("=")[0] for w in script.command("docker", script.BOARDS["orin"], Path("/o"), asked="x", jobs=1)
    }
    assert used <= given


def fake_engine(folder: Path, then: str) -> Path:
    """A docker that does something else in the container's place, with OUT as its folder."""
    folder.mkdir()
    for name in ("bash", "cp"):
        (folder / name).symlink_to(shutil.which(name))
    program = folder / "docker"
    volume = 'while [ "$1" != --volume ]; do shift; done; OUT=${2%:/out}'
    program.write_text(f"#!{shutil.which('bash')}\n{volume}\n{then}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def test_the_wheel_comes_whole_and_checked(script: ModuleType, tmp_path: Path, monkeypatch):
    good = wheel(tmp_path / LLAMA, "llama_cpp/lib/libllama.so", "llama_cpp/lib/libggml-cuda.so")
    board, out = script.BOARDS["orin"], tmp_path / "out"
    monkeypatch.setenv("PATH", str(fake_engine(tmp_path / "bin", f"cp {good} $OUT/")))
    made = script.build(script.empty_folder(out), "docker", board, asked="x", jobs=1)
    assert made == out / LLAMA
    assert [p.name for p in out.iterdir()] == [LLAMA]
    with pytest.raises(script.WheelError, match="is there already, and its name does not say for which board"):
        script.empty_folder(out)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("exit 3", "docker ended with exit code 3"),
        ("true", "expected one wheel, found"),
        ("cp CPU $OUT/", "has no libggml-cuda.so: it was built for the CPU"),
        ("cp X86 $OUT/", "expected a wheel for py3-none-linux_aarch64"),
    ],
)
def test_what_is_no_such_wheel_is_refused(script: ModuleType, tmp_path: Path, monkeypatch, then: str, message: str):
    cpu = wheel(tmp_path / LLAMA, "llama_cpp/lib/libllama.so")
    x86 = wheel(tmp_path / LLAMA.replace("aarch64", "x86_64"), "llama_cpp/lib/libggml-cuda.so")
    then = then.replace("CPU", str(cpu)).replace("X86", str(x86))
    monkeypatch.setenv("PATH", str(fake_engine(tmp_path / "bin", then)))
    out = script.empty_folder(tmp_path / "out")
    with pytest.raises(script.WheelError, match=message):
        script.build(out, "docker", script.BOARDS["thor"], asked="x", jobs=1)
    assert list(out.iterdir()) == []


def test_wrong_input_is_refused_with_what_to_do(script: ModuleType, tmp_path: Path):
    assert "invalid choice: 'xavier'" in run("xavier", "--out", tmp_path).stderr
    assert "required: --out" in run("orin").stderr
    assert run("orin", "--out", tmp_path, "--jobs", 0, "--dry-run").stderr == "--jobs 0: expected at least 1\n"
    with pytest.raises(script.WheelError, match=r"this machine is x86_64: .*qemu-user-static"):
        script.require_arm("x86_64", tmp_path / "nothing")
    script.require_arm("x86_64", tmp_path)
    script.require_arm("aarch64", tmp_path / "nothing")
    with pytest.raises(script.WheelError, match="nothing-of-that-name not found"):
        script.engine("nothing-of-that-name")
    (tmp_path / "file").touch()
    with pytest.raises(script.WheelError, match="is a file: expected a folder"):
        script.empty_folder(tmp_path / "file")


# systemd

UNITS = sorted(KIT.glob("*.service"))
DROP_IN = KIT / "faceinsight.service.d" / "jetson.conf"


def installed(folder: Path, *, drop_in: str | None = None) -> Path:
    """The server's unit and the kit's, with programs that are here."""
    for path in UNITS:
        text = re.sub(r"^(ExecStart=)\S+", rf"\1{sys.executable}", path.read_text(), flags=re.MULTILINE)
        (folder / path.name).write_text(text)
    server = unit([sys.executable, "-m", "faceinsight", "serve"], secrets={}, local=True, device="tensorrt")
    (folder / "faceinsight.service").write_text(server)
    (folder / "faceinsight.service.d").mkdir()
    (folder / "faceinsight.service.d" / "jetson.conf").write_text(drop_in or DROP_IN.read_text())
    return folder


def verified(folder: Path) -> str:
    """What systemd finds wrong."""
    command = ["systemd-analyze", "verify", *map(str, sorted(folder.glob("*.service")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr or ("" if done.returncode == 0 else f"exit code {done.returncode}")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units_and_the_drop_in(tmp_path: Path):
    (tmp_path / "good").mkdir()
    assert verified(installed(tmp_path / "good")) == ""
    (tmp_path / "bad").mkdir()
    wrong = DROP_IN.read_text() + "MemoryMost=5G\n"
    assert "MemoryMost" in verified(installed(tmp_path / "bad", drop_in=wrong)), "the drop-in is read"


def settings(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"^\w+=", line))


def test_plans_are_built_before_the_server_by_its_user_and_may_swap():
    engine, drop_in = settings(KIT / "faceinsight-engine.service"), settings(DROP_IN)
    server = unit(["/opt/x"], secrets={}, local=True, device="tensorrt")
    assert engine["User"] == drop_in["User"] == "faceinsight"
    assert f"CacheDirectory={engine['CacheDirectory']}\n" in server
    (cache,) = {re.search(r"XDG_CACHE_HOME=\S+", text)[0] for text in (server, engine["Environment"])}
    assert cache == "XDG_CACHE_HOME=%C/faceinsight"
    assert "MemorySwapMax=0" in server
    assert "MemorySwapMax" not in engine
    assert "faceinsight-engine.service" in drop_in["After"]
    assert "nvpmodel.service" in drop_in["After"]
    assert engine["SupplementaryGroups"] == drop_in["SupplementaryGroups"] == "video render"
    assert engine["LimitMEMLOCK"] == drop_in["LimitMEMLOCK"] == "infinity"


def test_a_board_keeps_memory_for_its_system():
    found = settings(DROP_IN)
    high, most = (int(found[name].removesuffix("%")) for name in ("MemoryHigh", "MemoryMax"))
    assert high < most
    # Of 7.4 GiB, which a board of 8 GB has.
    assert 1.5 < 7.4 * (1 - most / 100) < 2.5


def test_what_was_not_run_on_hardware_says_so():
    files = [p for p in KIT.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert len(files) == 4
    assert [p.name for p in files if "not run on hardware" not in p.read_text()] == []
