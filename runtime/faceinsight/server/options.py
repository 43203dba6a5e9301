"""Options of a server: from the command line, else from the environment, else from a file, else as they are here."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from ..bundle.json_decoder import FieldError, decode
from ..errors import DependencyError, RequestError

PREFIX = "FACEINSIGHT_SERVE_"


@dataclass(frozen=True, slots=True)
class Options:
    """How a server runs.

    Attributes:
        host, port: where it listens; port 0: any that is free.
        unix: path of a Unix socket to listen at instead.
        bundle, device, allow, deny, threads, forget_after: as `FaceInsight.load` has them.
        token_file: has what clients must send as their key.
        alias: further names of the model ("gpt-4o-mini").
        hostname: further names by which the server may be called.
        queue: how many requests may wait.
        timeout: seconds without progress after which a request's worker is replaced.
        log_content: log questions and answers.
        camera: a source as `faceinsight watch` takes it; None: none.
        camera_size, camera_fps: what is asked of it.
        mqtt: URL of a broker that is sent state and audience windows; None: none.
        mqtt_name: what this device is called there, and in requests of the webhook.
        mqtt_password_file, mqtt_ca_file: has the user's password; the certificates that the broker's is signed by.
        webhook: URL that audience windows are posted to.
        webhook_token_file: has what is sent along as a bearer token.
        window_log: file that audience windows are appended to.
        kiosk: the page for the public is at /, expression is off unless it is allowed, and people are asked first.
        consent: are people asked before the camera is read? None: in a kiosk.
        consent_seconds: for which a consent holds, unless it is renewed.
        operator: who runs it, for the notice.
        audience: count those who were in front of the camera.
        audience_window: seconds of a window of these counts.
        words: a JSON file with the words of a further language, or other words for one that there is.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    unix: str | None = None
    bundle: str = "nano"
    device: str = "auto"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    threads: int | None = None
    forget_after: float = 600.0
    token_file: str | None = None
    alias: tuple[str, ...] = ()
    hostname: tuple[str, ...] = ()
    queue: int = 8
    timeout: float = 60.0
    log_content: bool = False
    camera: str | None = None
    camera_size: str = "1280x720"
    camera_fps: int = 15
    mqtt: str | None = None
    mqtt_name: str | None = None
    mqtt_password_file: str | None = None
    mqtt_ca_file: str | None = None
    webhook: str | None = None
    webhook_token_file: str | None = None
    window_log: str | None = None
    kiosk: bool = False
    consent: bool | None = None
    consent_seconds: float = 60.0
    operator: str = ""
    words: tuple[str, ...] = ()
    audience: bool = False
    audience_window: float = 900.0

    def __post_init__(self) -> None:
        ranges = {
            "port": (0, 65535),
            "queue": (0, 1000),
            "timeout": (1, 86400),
            "forget_after": (1, 1e9),
            "camera_fps": (1, 120),
            "consent_seconds": (5, 86400),
            "audience_window": (900, 86400),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise FieldError(f"{name}: expected {low} to {high:g}, found {getattr(self, name)}")
        if not re.fullmatch(r"\d{1,4}x\d{1,4}", self.camera_size):
            raise FieldError(f"camera_size: expected a size like 1280x720, found {self.camera_size!r}")
        if self.mqtt_name is not None and not re.fullmatch(r"[a-z0-9_-]{1,32}", self.mqtt_name):
            raise FieldError(f"mqtt_name: expected up to 32 of a-z, 0-9, _ and -, found {self.mqtt_name!r}")
        for name in ("kiosk", "audience"):
            if getattr(self, name) and self.camera is None:
                raise FieldError(f"{name}: expected a camera too (--camera SOURCE), found none")

    @property
    def asks_consent(self) -> bool:
        """Are people asked before the camera is read?"""
        return self.kiosk if self.consent is None else self.consent


def gather(given: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Options:
    """The options.

    Args:
        given: on the command line; None where an option was not.
        environ: environment variables.
        config: a TOML file.

    Raises:
        RequestError: one does not fit.
    """
    names = [f.name for f in fields(Options)]
    merged = _read(config) if config else {}
    merged |= {n: _typed(n, environ[PREFIX + n.upper()]) for n in names if environ.get(PREFIX + n.upper())}
    merged |= {n: given[n] for n in names if given.get(n) is not None}
    try:
        return decode(Options, merged, "serve")
    except FieldError as e:
        raise RequestError(str(e)) from None


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise DependencyError("--config needs Python 3.11, or: pip install tomli") from None
    try:
        with open(path, "rb") as f:
            return dict(tomllib.load(f))
    except OSError as e:
        raise RequestError(f"--config {path}: {e.strerror or e}") from None
    except ValueError as e:
        raise RequestError(f"--config {path} is not TOML: {e}") from None


def _typed(name: str, text: str) -> Any:
    """A variable's text as its option's type."""
    kind = str(get_type_hints(Options)[name])
    try:
        if "tuple" in kind:
            return [x.strip() for x in text.split(",") if x.strip()]
        if "int" in kind:
            return int(text)
        if "float" in kind:
            return float(text)
        if "bool" in kind:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
    except (ValueError, KeyError):
        raise RequestError(f"{PREFIX}{name.upper()}={text!r} does not fit this option") from None
    return text
