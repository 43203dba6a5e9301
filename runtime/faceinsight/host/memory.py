"""Memory that is short is named as such: libraries say it in many ways, or crash."""

from __future__ import annotations

import errno
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MemoryShortError

#: Address space, in bytes, below which the libraries crash while they are imported (OpenBLAS, which OpenCV brings).
#: `nano` with one thread needs 900 MB of it; resident are 260 MB.
LEAST = 800_000_000
_WORDS = re.compile(
    r"bad_alloc|cannot allocate memory|failed to map segment|failed to allocate|insufficient memory|out of memory|"
    r"can't start new thread|pthread_create|thread creation failed",
    re.IGNORECASE,
)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what is behind it, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def short(error: BaseException) -> bool:
    """Is lack of memory, or of what a thread needs, behind this error?"""
    return any(
        isinstance(e, MemoryError) or getattr(e, "errno", None) == errno.ENOMEM or bool(_WORDS.search(str(e)))
        for e in causes(error)
    )


@contextmanager
def shortage_named() -> Iterator[None]:
    """Raises MemoryShortError, with the words of the error it stands for, where memory is short."""
    try:
        yield
    except MemoryShortError:
        raise
    except Exception as e:
        if not short(e):
            raise
        raise MemoryShortError(f"memory is short: {one_line(e)}; see `faceinsight fit`") from e


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or what it is."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def room(size: int) -> bool:
    """Could this process have so many bytes more?"""
    try:
        mmap.mmap(-1, max(size, 1)).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def require_address_space() -> None:
    """Raises MemoryShortError where this process may not have what importing the libraries takes."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST:
        raise MemoryShortError(
            f"memory is short: this process may have {limit / 1e6:,.0f} MB of address space (ulimit -v), expected at "
            f"least {LEAST / 1e6:,.0f} MB, and more with more threads"
        )
