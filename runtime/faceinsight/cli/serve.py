"""The command serve: its options; the server itself is imported when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.device import DEVICES
from ..errors import DependencyError

if TYPE_CHECKING:
    from ..server.options import Options

#: What the extra `server` brings.
LIBRARIES = ("starlette", "uvicorn", "h11", "prometheus_client")
INSTALL = "pip install 'starlette>=1.7,<2' 'uvicorn>=0.30' h11 prometheus-client"


def add_serve(add: Any) -> None:
    """Its parser. Defaults are the server's: an option that is not given may stand in the environment or a file."""
    serve = add.add_parser(
        "serve",
        help="a local server that OpenAI clients can talk to",
        description="A local server that OpenAI clients can talk to. Every option may also be an environment variable "
        "(FACEINSIGHT_SERVE_PORT) or stand in the file of --config (port = 8080); the command line wins.",
    )
    serve.add_argument("--host", help="address to listen at (127.0.0.1); beyond this machine, --token-file is needed")
    serve.add_argument("--port", type=int, help="port to listen at (8080); 0: any that is free")
    serve.add_argument("--unix", metavar="PATH", help="listen at a Unix socket instead")
    serve.add_argument("--bundle", metavar="B", help="a shipped bundle or a folder (nano)")
    serve.add_argument("--device", choices=DEVICES, help="(auto)")
    serve.add_argument("--threads", type=int, metavar="N", help="thread budget (all cores)")
    several = "; may be repeated"
    serve.add_argument("--allow", action="append", metavar="G,...", help=f"groups to switch on{several}")
    serve.add_argument("--deny", action="append", metavar="G,...", help=f"groups to switch off{several}")
    serve.add_argument("--forget-after", type=float, metavar="S", help="seconds that a face is held (600)")
    serve.add_argument("--token-file", metavar="FILE", help="has the token that clients must send as their key")
    serve.add_argument("--alias", action="append", metavar="NAME", help=f"another name of the model{several}")
    serve.add_argument("--hostname", action="append", metavar="NAME", help=f"a name that it is called by{several}")
    serve.add_argument("--queue", type=int, metavar="N", help="requests that may wait (8)")
    serve.add_argument("--timeout", type=float, metavar="S", help="seconds without progress that end a worker (60)")
    serve.add_argument("--log-content", action="store_const", const=True, help="log questions and answers")
    serve.add_argument("--camera", metavar="SOURCE", help="watch it: v4l2:0, rtsp://..., csi:0, file:video.mp4")
    serve.add_argument("--camera-size", metavar="WxH", help="that is asked for (1280x720)")
    serve.add_argument("--camera-fps", type=int, metavar="N", help="frames a second that are asked for (15)")
    serve.add_argument("--mqtt", metavar="URL", help="publish state and audience: mqtt://[user@]host, mqtts://...")
    serve.add_argument("--mqtt-name", metavar="NAME", help="of this device there (made from the host's)")
    serve.add_argument("--mqtt-password-file", metavar="FILE", help="has the user's password")
    serve.add_argument("--mqtt-ca-file", metavar="FILE", help="certificates for mqtts:// (the system's)")
    serve.add_argument("--webhook", metavar="URL", help="POST audience windows there")
    serve.add_argument("--webhook-token-file", metavar="FILE", help="has a bearer token for it")
    serve.add_argument("--window-log", metavar="FILE", help="append audience windows as JSON Lines")
    serve.add_argument(
        "--kiosk", action="store_const", const=True, help="a page for the public at /: asks first, expression off"
    )
    serve.add_argument(
        "--consent", action=argparse.BooleanOptionalAction, help="read the camera only after somebody agreed (kiosk)"
    )
    serve.add_argument("--consent-seconds", type=float, metavar="S", help="for which that holds (60)")
    serve.add_argument("--operator", metavar="TEXT", help="who runs it, for the notice")
    serve.add_argument(
        "--audience", action="store_const", const=True, help="count who was there, in windows: numbers, never persons"
    )
    serve.add_argument("--audience-window", type=float, metavar="S", help="seconds of a window (900)")
    serve.add_argument("--words", action="append", metavar="FILE.json", help=f"a further language of the page{several}")
    serve.add_argument("--config", type=Path, metavar="FILE.toml", help="options from a file")
    serve.add_argument("--print-unit", action="store_true", help="print a systemd unit for these options")
    serve.set_defaults(run=run, verbose=False)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    given = vars(args).copy()
    for name in ("allow", "deny", "alias", "hostname", "words"):
        if given[name] is not None:
            given[name] = [x.strip() for text in given[name] for x in text.split(",") if x.strip()]
    try:
        from ..server.options import gather
        from ..server.run import run as serve
    except ImportError as e:
        if (e.name or "").partition(".")[0] not in LIBRARIES:
            raise
        raise DependencyError(f"{e.name} is not installed: {INSTALL}") from e

    def options() -> Options:
        return gather(given, os.environ, args.config)

    if args.print_unit:
        sys.stdout.write(unit_text(options(), given, args.config))
        return 0
    return serve(options(), options)


def unit_text(options: Options, given: Mapping[str, Any], config: Path | None) -> str:
    """A systemd unit that starts the server with these options."""
    from ..server.security import is_loopback
    from ..server.systemd import unit

    program = Path(sys.executable).with_name("faceinsight")
    command = [str(program)] if program.exists() else [sys.executable, "-m", "faceinsight"]
    command.append("serve")
    secret = {n: getattr(options, n) for n in ("token_file", "mqtt_password_file", "webhook_token_file")}
    if config:
        command += ["--config", str(config.resolve())]
    for name in (f.name for f in dataclasses.fields(options)):
        value, flag = given.get(name), f"--{name.replace('_', '-')}"
        if value is None or name in secret:
            continue
        values = value if isinstance(value, list) else [value]
        if value is False:
            command.append(f"--no-{flag[2:]}")
            continue
        command += [flag] if value is True else [word for v in values for word in (flag, _absolute(name, str(v)))]
    for path in (command[0], str(config.resolve()) if config else "", *(path or "" for path in secret.values())):
        if path.startswith(("/home/", "/root/", "/tmp/")):
            sys.stderr.write(f"faceinsight: {path} is out of the service's sight: install in /opt, say\n")
    return unit(
        command,
        secrets={n[:-5].replace("_", "-"): str(Path(path).resolve()) for n, path in secret.items() if path},
        local=(options.unix is not None or is_loopback(options.host)) and not (options.mqtt or options.webhook),
        device=options.device,
        camera=options.camera,
    )


def _absolute(name: str, value: str) -> str:
    """Paths as they are from anywhere."""
    is_path = name in ("unix", "words", "mqtt_ca_file") or (name == "bundle" and os.sep in value)
    return str(Path(value).resolve()) if is_path else value
