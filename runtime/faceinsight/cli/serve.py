"""The command serve: its options; the server itself is imported when it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..backends.device import DEVICES
from ..errors import DependencyError

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
    serve.add_argument("--config", type=Path, metavar="FILE.toml", help="options from a file")
    serve.set_defaults(run=run, verbose=False)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    try:
        from ..server.options import gather
        from ..server.run import run as serve
    except ImportError as e:
        if (e.name or "").partition(".")[0] not in LIBRARIES:
            raise
        raise DependencyError(f"{e.name} is not installed: {INSTALL}") from e
    given = vars(args).copy()
    for name in ("allow", "deny", "alias", "hostname"):
        if given[name] is not None:
            given[name] = [x.strip() for text in given[name] for x in text.split(",") if x.strip()]
    return serve(gather(given, os.environ, args.config))
