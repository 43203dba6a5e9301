"""The doctor: each cause by its name, from facts that no GPU is needed for."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from paths import PHOTO, ROOT

from faceinsight.backends.tensorrt.cudart import NO_DRIVER
from faceinsight.bundle.bundle import locate
from faceinsight.cli.main import main
from faceinsight.diagnostics import doctor, facts, versions
from faceinsight.diagnostics.doctor import diagnose
from faceinsight.diagnostics.facts import Facts, gather
from faceinsight.diagnostics.versions import found_versions
from faceinsight.host.child import Probe
from faceinsight.host.jetson import Jetson, read_jetson

GPU_BUILD = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
ORT = {"version": "1.31.1", "providers": GPU_BUILD, "library": "ok", "run": "ok"}
RTX = {"name": "RTX 4060", "sm": 89, "integrated": False, "driver": 13000, "runtime": 13000, "free": 7e9, "total": 8e9}
DESKTOP = Facts(
    machine="x86_64",
    distributions={"onnxruntime-gpu": "1.31.1"},
    onnxruntime=Probe(ORT),
    llama=Probe({"version": "0.3.36", "gpu": True, "amx": False}),
    cuda=Probe(RTX),
    tensorrt=Probe({"version": "10.16.1", "sm": 89, "device": "RTX 4060", "integrated": False}),
    opencv=Probe({"version": "4.12.0"}),
    driver="NVIDIA UNIX x86_64 Kernel Module  580.82.09",
    memory=16_000_000_000,
    bundle="nano (/b)",
    need=240_000_000,
    versions={"python": "3.10.12", "numpy": "1.26.4", "opencv-python-headless": "4.12.0", "onnxruntime": "1.31.1"},
)
JETSON = Jetson("36.4.3", "NVIDIA Jetson Orin Nano", 87, "MAXN_SUPER", (1_020_000_000, 1_020_000_000), 1_020_000_000)
ORIN = dataclasses.replace(
    DESKTOP, machine="aarch64", jetson=JETSON, driver=None, cuda=Probe(RTX | {"name": "Orin", "sm": 87})
)
CPU_ONLY = dataclasses.replace(
    DESKTOP,
    distributions={"onnxruntime": "1.32.0"},
    onnxruntime=Probe({"version": "1.32.0", "providers": ["CPUExecutionProvider"]}),
    llama=Probe({"version": "0.3.36", "gpu": False, "amx": False}),
    cuda=Probe(error="DeviceError: no CUDA runtime found"),
    tensorrt=Probe(error="ModuleNotFoundError: No module named 'tensorrt'"),
    driver=None,
)
NO_DRIVER_HERE = f"DeviceError: CUDA sees no GPU: NVIDIA's driver is not visible (libcuda.so.1): {NO_DRIVER}"
#: A GPU build of ONNX Runtime where there is no GPU: what it lacks is not missed.
GPU_BUILD_ON_CPU = dataclasses.replace(
    CPU_ONLY,
    distributions={"onnxruntime-gpu": "1.31.1"},
    onnxruntime=Probe({**ORT, "library": "libcuda.so.1: cannot open shared object file", "run": "no device"}),
)
#: In a container a board's files are not there, but CUDA sees a GPU that shares the CPU's memory.
CONTAINER = dataclasses.replace(
    DESKTOP, machine="aarch64", driver=None, cuda=Probe(RTX | {"name": "Orin", "sm": 87, "integrated": True})
)
CUDA_LLAMA = Probe({"version": "0.3.36", "gpu": False, "cuda_build": True, "amx": False})


def of(name: str, version: str, **others: str) -> dict[str, dict[str, str]]:
    """That package in another version."""
    return {"versions": {**DESKTOP.versions, name: version, **others}}


@pytest.mark.parametrize("facts", [DESKTOP, ORIN, CPU_ONLY, GPU_BUILD_ON_CPU, CONTAINER])
def test_a_healthy_machine_is_ok(facts: Facts):
    assert {c.status for c in diagnose(facts)} == {"ok"}


NO_CUDNN = "libcudnn.so.9: cannot open shared object file: No such file or directory"
NO_CUBLAS = "libcublasLt.so.12: cannot open shared object file: No such file or directory"
NO_KERNEL = "CUDA error cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device"
CPU_ORT = {"version": "1.32.0", "providers": ["CPUExecutionProvider"]}


@pytest.mark.parametrize(
    ("facts", "changes", "name", "status", "found", "do"),
    [
        (DESKTOP, {"onnxruntime": Probe(CPU_ORT)}, "ONNX Runtime", "warn", "no GPU provider", "onnxruntime-gpu"),
        (ORIN, {"onnxruntime": Probe(CPU_ORT)}, "ONNX Runtime", "warn", "no GPU provider", "docs/devices/jetson.md"),
        (DESKTOP, {"onnxruntime": Probe(error="x")}, "ONNX Runtime", "fail", "x", "pip install"),
        (
            DESKTOP,
            {"distributions": {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}},
            "distributions",
            "fail",
            "overwrite",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            DESKTOP,
            {"onnxruntime": Probe(ORT | {"library": NO_CUDNN})},
            "CUDA libraries",
            "fail",
            "libcudnn.so.9 is missing; the CUDA runtime found is 13.0",
            "that major version",
        ),
        (
            DESKTOP,
            {"onnxruntime": Probe(ORT | {"library": NO_CUBLAS})},
            "CUDA libraries",
            "fail",
            "libcublasLt.so.12 is missing",
            "built for yours",
        ),
        (ORIN, {"onnxruntime": Probe(ORT | {"run": NO_KERNEL})}, "CUDA kernels", "fail", "sm_87", "89, 90, 120, 121"),
        (DESKTOP, {"onnxruntime": Probe(ORT | {"run": NO_KERNEL})}, "CUDA kernels", "fail", "sm_89", "newer"),
        (CONTAINER, {"onnxruntime": Probe(ORT | {"run": NO_KERNEL})}, "CUDA kernels", "fail", "sm_87", "jetson.md"),
        (DESKTOP, {"onnxruntime": Probe(ORT | {"run": "ones give [3]"})}, "CUDA kernels", "fail", "[3]", "driver"),
        (
            DESKTOP,
            {"onnxruntime": Probe(ORT | {"run": "cuDNN is not available. Install cuDNN 9"})},
            "CUDA kernels",
            "fail",
            "cuDNN is not available",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            DESKTOP,
            {"onnxruntime": Probe(ORT | {"library": "libcuda.so.1: cannot open shared object file"})},
            "CUDA libraries",
            "fail",
            "libcuda.so.1",
            "--runtime nvidia",
        ),
        (
            ORIN,
            {"llama": Probe({"version": "0.3.36", "gpu": False, "amx": False})},
            "llama.cpp",
            "warn",
            "CPU build",
            '-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=87 -DGGML_CUDA_NO_VMM=on -DLLAVA_BUILD=off" CUDACXX=',
        ),
        (
            DESKTOP,
            {"llama": Probe({"version": "0.3.36", "gpu": False, "cuda_build": False, "amx": False})},
            "llama.cpp",
            "warn",
            "CPU build",
            'CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=89" CUDACXX=',
        ),
        (
            DESKTOP,
            {"llama": CUDA_LLAMA},
            "llama.cpp",
            "warn",
            "is a CUDA build that sees no GPU, though CUDA does",
            "newer CUDA than the driver's",
        ),
        (
            CPU_ONLY,
            {
                "llama": Probe({"version": "0.3.36", "gpu": False, "amx": True}),
                "amx": Probe({"without": "AMX"}, "crashed with SIGSEGV", crashed=True),
            },
            "llama.cpp",
            "warn",
            "compiled for AMX, which fails (crashed with SIGSEGV)",
            "-fno-dse",
        ),
        (
            CPU_ONLY,
            {"llama": Probe({"version": "0.3.36", "gpu": False, "amx": True}), "amx": Probe({"difference": 0.9})},
            "llama.cpp",
            "warn",
            "compiled for AMX, which fails ({'difference': 0.9})",
            "-fno-dse",
        ),
        (
            CPU_ONLY,
            {"llama": Probe({"version": "0.3.36", "gpu": False, "amx": True}), "amx": Probe(error="MemoryError")},
            "llama.cpp",
            "warn",
            "compiled for AMX, which was not tried (MemoryError)",
            "start again",
        ),
        (DESKTOP, {"llama": Probe(error="OSError: libcudart.so.12")}, "llama.cpp", "fail", "cudart", "GGML_CUDA=on"),
        (DESKTOP, {"llama": Probe(error="OSError: libcuda.so.1")}, "llama.cpp", "fail", "libcuda", "--runtime nvidia"),
        (CPU_ONLY, {"llama": Probe(error="OSError: libcuda.so.1")}, "llama.cpp", "fail", "libcuda", "without a GPU"),
        (DESKTOP, {"tensorrt": Probe({"version": "8.6.1"})}, "TensorRT", "warn", "8.6.1", "JetPack 6.2"),
        (DESKTOP, {"tensorrt": Probe(error="crashed with SIGSEGV")}, "TensorRT", "warn", "SIGSEGV", "driver"),
        (ORIN, {"tensorrt": CPU_ONLY.tensorrt}, "TensorRT", "warn", "No module", "--system-site-packages"),
        (DESKTOP, {"memory": 200_000_000}, "memory", "fail", "0.2 GB", "faceinsight fit"),
        (DESKTOP, {"memory": 250_000_000}, "memory", "warn", "0.2 GB", "faceinsight fit"),
        (DESKTOP, {"opencv": Probe(error="No module named 'cv2'")}, "OpenCV", "fail", "cv2", "pip install"),
        (DESKTOP, of("opencv-python-headless", "4.7.0"), "versions", "fail", "OpenCV 4.7.0", "headless>=4.8'"),
        (DESKTOP, of("onnxruntime", "1.17.3"), "versions", "fail", "1.17.3: older", "'onnxruntime-gpu>=1.18'"),
        (CPU_ONLY, of("onnxruntime", "1.17.3"), "versions", "fail", "1.17.3: older", "'onnxruntime>=1.18'"),
        (CPU_ONLY, of("onnxruntime", "1.18.1", numpy="2.2.6"), "versions", "fail", "numpy is 2.2.6", "time>=1.19'"),
        (CPU_ONLY, of("transformers", "4.40.2"), "versions", "warn", "4.40.2", "'transformers>=4.57.1'"),
        (DESKTOP, {"bundle_error": "llm.gguf: the file is damaged"}, "bundle", "fail", "damaged", "again"),
        (DESKTOP, {"cuda": Probe(error="driver version is insufficient")}, "GPU", "warn", "insufficient", "nvidia-smi"),
        (DESKTOP, {"cuda": Probe(error=NO_DRIVER_HERE)}, "GPU", "warn", "not visible", "--gpus all"),
        (ORIN, {"jetson": dataclasses.replace(JETSON, l4t="35.4.1")}, "L4T release", "fail", "35.4.1", "JetPack 6.2"),
        (ORIN, {"jetson": dataclasses.replace(JETSON, l4t="36.4.7")}, "L4T release", "warn", "error 12", "reboot"),
        (ORIN, {"jetson": dataclasses.replace(JETSON, mode="15W")}, "power mode", "warn", "15W", "nvpmodel"),
        (
            ORIN,
            {"jetson": dataclasses.replace(JETSON, gpu_hz=(306_000_000, 1_020_000_000), gpu_min_hz=306_000_000)},
            "GPU clock",
            "warn",
            "306 of 1020 MHz, it varies",
            "jetson_clocks",
        ),
    ],
)
def test_each_cause_is_named(facts: Facts, changes: dict, name: str, status: str, found: str, do: str):
    wrong = [c for c in diagnose(dataclasses.replace(facts, **changes)) if c.status != "ok"]
    assert [(c.name, c.status) for c in wrong] == [(name, status)]
    assert found in wrong[0].found
    assert do in wrong[0].do
    assert wrong[0].do


def test_a_cuda_build_where_cuda_sees_no_gpu_either_is_not_compiled_again():
    facts = dataclasses.replace(DESKTOP, llama=CUDA_LLAMA, cuda=Probe(error=NO_DRIVER_HERE))
    found = {c.name: c for c in diagnose(facts) if c.status != "ok"}
    assert found.keys() == {"GPU", "llama.cpp"}
    assert "is a CUDA build that sees no GPU" in found["llama.cpp"].found
    assert "CMAKE_ARGS" not in found["llama.cpp"].do


@pytest.mark.parametrize(
    ("machine", "cuda", "expected"),
    [
        ("aarch64", {"sm": 87, "integrated": True}, True),
        ("aarch64", {"sm": 110, "integrated": True}, True),
        ("aarch64", {"sm": 121, "integrated": True}, False),  # DGX Spark
        ("aarch64", {"sm": 90, "integrated": False}, False),  # Grace Hopper
        ("x86_64", {"sm": 87, "integrated": True}, False),
    ],
)
def test_a_jetson_is_known_by_its_gpu_in_a_container(machine: str, cuda: dict, expected: bool):
    facts = dataclasses.replace(CONTAINER, machine=machine, cuda=Probe(RTX | cuda))
    assert facts.on_jetson == expected
    (check,) = (c for c in diagnose(dataclasses.replace(facts, onnxruntime=Probe(CPU_ORT))) if c.name == "ONNX Runtime")
    assert ("docs/devices/jetson.md" in check.do) == expected


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The files of a Jetson Orin Nano."""
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "var/lib/nvpmodel/status": "pmode:0002",
        "proc/meminfo": "MemTotal: 7990000 kB\nMemAvailable: 100000 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("version", "newer"), [("5.0.1", False), ("5.1.0", True), ("6.0.0-dev", True)])
def test_what_is_newer_than_any_that_was_tried_is_said(version: str, newer: bool):
    facts = dataclasses.replace(DESKTOP, **of("opencv-python-headless", version))
    (check,) = (c for c in diagnose(facts) if c.name == "versions")
    assert check.status == "ok"
    assert (f"newer than any that was tried: OpenCV {version} (tried: 5.0)" in check.found) == newer


def test_a_library_that_does_not_load_has_the_version_that_pip_installed(monkeypatch):
    pip = {"opencv-contrib-python": "4.9.0.80", "onnxruntime-gpu": "1.18.1"}
    monkeypatch.setattr(versions, "installed", pip.get)
    probes = {"opencv": Probe(error="x"), "onnxruntime": Probe({"version": "1.31.1"}), "llama": Probe(error="x")}
    found = found_versions(probes)
    assert found.pop("numpy") == numpy.__version__
    assert found.pop("python") == platform.python_version()
    assert found == {"opencv-python-headless": "4.9.0.80", "onnxruntime": "1.31.1"}


def test_a_jetson_is_read_from_its_files(board: Path):
    expected = Jetson(
        "36.4.3", "NVIDIA Jetson Orin Nano Developer Kit", 87, "MAXN_SUPER", (306000000, 1020000000), 306000000
    )
    assert read_jetson(board) == expected
    # Where the release file is gone, the package that carries it says the same.
    (board / "etc/nv_tegra_release").unlink()
    assert read_jetson(board) == dataclasses.replace(expected, l4t=None)
    (board / "var/lib/dpkg").mkdir(parents=True)
    (board / "var/lib/dpkg/status").write_text(
        "Package: bash\nVersion: 5.2\n\nPackage: nvidia-l4t-core\nStatus: install ok installed\nVersion: 39.2.0-2026\n"
    )
    assert read_jetson(board) == dataclasses.replace(expected, l4t="39.2.0")
    for unread in ("var/lib/nvpmodel/status", "sys/class/devfreq/17000000.gpu/max_freq"):
        (board / unread).unlink()
    assert read_jetson(board) == dataclasses.replace(expected, l4t="39.2.0", mode=None, gpu_hz=None)


def test_a_container_on_a_jetson_is_known_by_the_device_tree(board: Path, monkeypatch):
    """The kernel's files are there, those of the board's system are not, and nothing of CUDA was handed in."""
    for name in ("etc/nv_tegra_release", "etc/nvpmodel.conf", "var/lib/nvpmodel/status"):
        (board / name).unlink()
    found = dataclasses.replace(CPU_ONLY, machine="aarch64")
    monkeypatch.setattr(facts, "probe", lambda name: getattr(found, name))
    checks = {c.name: c for c in diagnose(gather("nano", root=board))}
    assert checks["GPU"].status == "warn"
    assert "--runtime nvidia" in checks["GPU"].do
    assert checks["L4T release"].found == "not readable, as in a container (NVIDIA Jetson Orin Nano Developer Kit)"
    (board / "proc/device-tree/compatible").write_text("brcm,bcm2712\0")
    assert read_jetson(board) is None
    checks = {c.name: c for c in diagnose(gather("nano", root=board))}
    assert checks["GPU"].found == "no NVIDIA GPU: everything runs on the CPU"
    assert "L4T release" not in checks


def test_facts_come_from_the_root_that_is_given(board: Path, monkeypatch):
    monkeypatch.setattr(facts, "probe", lambda name: getattr(ORIN, name))
    checks = {c.name: c for c in diagnose(gather("nano", root=board))}
    assert checks["bundle"].status == "ok"
    assert checks["memory"].status == "fail"
    assert checks["power mode"].status == "ok"
    assert checks["GPU clock"].status == "warn"


def test_a_device_error_carries_the_finding(monkeypatch):
    facts = dataclasses.replace(DESKTOP, onnxruntime=Probe(ORT | {"library": NO_CUDNN}))
    monkeypatch.setattr(doctor, "gather", lambda bundle: facts)
    assert doctor.finding("cuda").startswith("CUDA libraries: libcudnn.so.9 is missing")
    monkeypatch.setattr(doctor, "gather", lambda bundle: CPU_ONLY)
    assert "No NVIDIA GPU was found" in doctor.finding("cuda")
    facts = dataclasses.replace(DESKTOP, llama=CUDA_LLAMA)
    monkeypatch.setattr(doctor, "gather", lambda bundle: facts)
    assert doctor.finding("tensorrt").startswith("llama.cpp: 0.3.36 is a CUDA build that sees no GPU")
    monkeypatch.setattr(doctor, "gather", lambda bundle: DESKTOP)
    assert "faceinsight doctor" in doctor.finding("cuda")


def test_command(tmp_path: Path, capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert {"bundle", "OpenCV", "GPU", "ONNX Runtime", "llama.cpp"} <= {c["name"] for c in found["checks"]}
    shutil.copytree(locate("nano"), tmp_path / "b")
    with open(tmp_path / "b" / "llm.gguf", "r+b") as f:
        f.seek(100_000)
        f.write(b"damage")
    assert main(["doctor", "--bundle", str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert "fail  bundle" in out
    assert "the file is damaged" in out
    assert "do: export or install it again" in out


def test_the_doctor_starts_where_opencv_is_missing(tmp_path: Path):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "faceinsight.cli", *args]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    done = run("doctor")
    assert done.returncode == 1
    assert "fail  OpenCV" in done.stdout
    done = run("report", str(PHOTO))
    assert done.returncode == 1
    assert done.stderr.startswith("faceinsight: OpenCV is not installed: pip install opencv-python-headless")


@pytest.mark.parametrize(
    ("module", "raised"),
    [
        ("cv2", 'ImportError("libGL.so.1: cannot open shared object file")'),
        ("onnxruntime", 'ImportError("libcudnn.so.9: cannot open shared object file")'),
        ("llama_cpp", 'RuntimeError("Failed to load shared library libllama.so")'),
    ],
)
def test_a_library_that_does_not_load_is_named_with_its_own_words(tmp_path: Path, module: str, raised: str):
    # Of llama-cpp-python a module inside of the package is what loads the library.
    stub = tmp_path / (f"{module}.py" if module != "llama_cpp" else "llama_cpp/llama_cpp.py")
    stub.parent.mkdir(exist_ok=True)
    (stub.parent / "__init__.py").touch()
    stub.write_text(f"raise {raised}\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "faceinsight.cli", "ask", str(PHOTO), "Is she smiling?"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "installed but does not load: " + raised.split('"')[1] in done.stderr


def test_no_message_asks_an_index_for_our_name():
    """Whoever registers it there would be installed."""
    texts = [path for room in ("runtime", "export", "models") for path in (ROOT / room).rglob("*.py")]
    texts += [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for path in texts:
        assert not re.search(r"pip install '?faceinsight\b", path.read_text()), path
