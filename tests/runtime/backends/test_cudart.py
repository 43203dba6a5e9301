"""Which libcudart is taken: one that works with this driver, of stubs that are compiled here."""

from __future__ import annotations

from pathlib import Path

import pytest
from stubs import library, needs_cc

from faceinsight import DeviceError
from faceinsight.backends.tensorrt import cudart
from faceinsight.backends.tensorrt.cudart import NO_DRIVER, Cuda

pytestmark = needs_cc


def stub(path: Path, status: int) -> str:
    """A libcudart whose calls end with this status; one GPU where that is 0."""
    return str(
        library(
            path,
            f"""
            int cudaGetDeviceCount(int *count) {{ *count = {int(status == 0)}; return {status}; }}
            const char *cudaGetErrorString(int status) {{ return "driver version is insufficient"; }}
            int cudaGetLastError(void) {{ return 0; }}
            int cudaStreamDestroy(void *stream) {{ return stream ? 0 : 400; }}
            """,
        )
    )


def test_a_runtime_of_a_newer_cuda_than_the_drivers_is_passed_over(tmp_path: Path, monkeypatch):
    new, old = stub(tmp_path / "libcudart.so.13", 35), stub(tmp_path / "libcudart.so.12", 0)
    monkeypatch.setattr(cudart, "_candidates", lambda: [str(tmp_path / "none.so"), new, old])
    cuda = Cuda()
    assert cuda._library._name == old
    cuda.destroy_stream(1)


def test_where_none_works_each_is_named_with_its_error(tmp_path: Path, monkeypatch):
    paths = [stub(tmp_path / f"libcudart.so.{major}", status) for major, status in ((13, 35), (12, 100))]
    monkeypatch.setattr(cudart, "_candidates", lambda: paths)
    with pytest.raises(DeviceError) as raised:
        Cuda()
    assert "libcudart.so.13: driver version is insufficient (CUDA error 35)" in str(raised.value)
    assert "libcudart.so.12: driver version is insufficient (CUDA error 100)" in str(raised.value)


def test_a_driver_that_is_not_there_is_told_apart(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cudart, "_candidates", lambda: [stub(tmp_path / "libcudart.so.13", 35)])
    try:
        Cuda()
    except DeviceError as e:
        text = str(e)
    real = cudart.ctypes.CDLL

    def without_driver(name: str) -> object:
        if name.startswith("libcuda.so"):
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return real(name)

    monkeypatch.setattr(cudart.ctypes, "CDLL", without_driver)
    with pytest.raises(DeviceError, match=r"not visible \(libcuda\.so\.1: cannot open.*--runtime nvidia or --gpus all"):
        Cuda()
    monkeypatch.setattr(cudart.ctypes, "CDLL", lambda name: None if name.startswith("libcuda.so") else real(name))
    with pytest.raises(DeviceError, match="The driver is here: nvidia-smi"):
        Cuda()
    assert (NO_DRIVER in text) != ("The driver is here" in text)


def test_where_there_is_no_runtime_every_name_that_was_tried_is_said(tmp_path: Path, monkeypatch):
    """JetPack 6 has CUDA 12: a message about version 13 alone would mislead there."""
    broken = tmp_path / "libcudart.so"
    broken.write_text("no library")
    monkeypatch.setattr(cudart, "_candidates", lambda: ["libcudart.so.none13", "libcudart.so.none12", str(broken)])
    with pytest.raises(DeviceError, match="no CUDA runtime found") as raised:
        Cuda()
    assert "(libcudart.so.none13, libcudart.so.none12: cannot open shared object file" in str(raised.value)
    assert f"; {broken}: " in str(raised.value)


def test_pip_packages_and_the_toolkit_are_looked_into(tmp_path: Path, monkeypatch):
    for path in ("site/nvidia/cu13/lib/libcudart.so.13", "site/nvidia/cuda_runtime/lib/libcudart.so.12"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so.13").touch()
    monkeypatch.setattr(cudart, "TOOLKIT", tmp_path / "lib64")
    monkeypatch.setattr(cudart.sys, "path", ["", str(tmp_path / "site")])
    assert cudart._candidates() == [
        "libcudart.so.13",
        "libcudart.so.12",
        str(tmp_path / "site/nvidia/cuda_runtime/lib/libcudart.so.12"),
        str(tmp_path / "site/nvidia/cu13/lib/libcudart.so.13"),
        str(tmp_path / "lib64/libcudart.so.13"),
        "libcudart.so",
    ]
