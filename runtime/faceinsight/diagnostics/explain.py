"""Errors of a device say what `faceinsight doctor` finds wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeviceError


@contextmanager
def explained(device: str) -> Iterator[None]:
    """Around whatever starts a device: a DeviceError leaves with the doctor's finding about it.

    The doctor is imported only then: looking at the machine takes seconds, and importing it is a part of a cold start.
    """
    try:
        yield
    except DeviceError as e:
        from .doctor import finding

        raise DeviceError(f"{e}. {finding(device)}") from e
