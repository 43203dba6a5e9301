"""The command kiosk: what makes a machine show the server's page full screen, printed or written."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..host.browser_kiosk import BROWSERS, SESSIONS, Page, files, places
from ..host.installer import Change, install, remove

_USER = r"[a-z_][a-z0-9_-]{0,30}"
_LANGUAGE = r"[a-z]{2,3}(-[A-Z]{2})?"


def add_kiosk(add: Any) -> None:
    """Its parser, with those of install and remove."""
    kiosk = add.add_parser("kiosk", help="make this machine show the page of `serve --kiosk`, full screen")
    steps = kiosk.add_subparsers(dest="step", required=True)
    put = steps.add_parser(
        "install",
        help="the server's unit, the browser's policy and what starts the browser",
        description="Prints the files that make this machine a kiosk, and the commands that follow; with --apply, "
        "writes them. Linux with systemd and Chromium.",
    )
    put.add_argument("--camera", metavar="SOURCE", help="as serve takes it: v4l2:/dev/v4l/by-id/..., rtsp://..., csi:0")
    put.add_argument("--port", type=int, help="of the server (8080)")
    put.add_argument("--bundle", metavar="B", help="a shipped bundle or a folder (nano)")
    put.add_argument("--config", type=Path, metavar="FILE.toml", help="further options of the server")
    put.add_argument("--user", type=_user, default="kiosk", help="who the browser runs as (kiosk)")
    put.add_argument("--browser", choices=(*BROWSERS, "auto"), default="auto", help="(auto: the one that is installed)")
    put.add_argument("--language", type=_language, metavar="LL", help="that the page is shown in (the browser's)")
    put.add_argument("--session", choices=SESSIONS, default=SESSIONS[0], help="in a desktop, or instead of one")
    put.set_defaults(run=run_install)
    away = steps.add_parser(
        "remove",
        help="take the files away that install writes",
        description="Prints which files of `kiosk install` there are; with --apply, takes them away. What they once "
        "replaced stays as NAME.orig.",
    )
    away.set_defaults(run=run_remove)
    for command, verb in ((put, "write"), (away, "remove")):
        command.add_argument("--apply", action="store_true", help=f"{verb} the files, instead of printing them")
        command.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="of another system, an image")
        command.set_defaults(verbose=False)


def _user(text: str) -> str:
    if not re.fullmatch(_USER, text) or text == "root":
        raise argparse.ArgumentTypeError(f"expected the name of a user other than root, found {text!r}")
    return text


def _language(text: str) -> str:
    if not re.fullmatch(_LANGUAGE, text):
        raise argparse.ArgumentTypeError(f"expected a language like de or pt-BR, found {text!r}")
    return text


def run_install(args: argparse.Namespace) -> int:
    """Print or write."""
    origin, server_unit = _server(args)
    page = Page(
        origin=origin,
        user=args.user,
        browser=_browser(args.root) if args.browser == "auto" else args.browser,
        session=args.session,
        language=args.language,
    )
    wanted = list(files(page, server_unit))
    other = [p for p in places() if p not in {f.path for f in wanted}]
    if args.apply:
        _check_rights(args.root)
        _print(remove(other, args.root))
        _print(install(wanted, args.root))
    else:
        for file in wanted:
            sys.stdout.write(f"### {file.path}, mode {file.mode:o}\n{file.text}\n")
    lines = commands(page)
    sys.stdout.write("\n".join(["### then", *lines, ""]))
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Print or remove."""
    if args.apply:
        _check_rights(args.root)
        _print(remove(places(), args.root))
        sys.stdout.write("### then\n")
    else:
        sys.stdout.write("systemctl disable --now faceinsight-page faceinsight\n")
        found = (args.root / p.relative_to("/") for p in places())
        sys.stdout.write("".join(f"rm {p}\n" for p in found if p.exists()))
    sys.stdout.write("systemctl daemon-reload\n")
    return 0


def commands(page: Page) -> list[str]:
    """What is to be done as root after the files are there, as lines of shell."""
    lines = [
        f"id {page.user} || useradd --create-home --shell /bin/bash {page.user}",
        "systemctl daemon-reload",
        "systemctl enable --now faceinsight",
    ]
    if page.session == "cage":
        return [
            "apt-get install cage xwayland",
            *lines,
            "systemctl set-default multi-user.target    # no desktop",
            "systemctl disable --now getty@tty1         # the first terminal is the page's",
            "systemctl enable --now faceinsight-page",
        ]
    return [
        *lines,
        f"# let the desktop log {page.user} in by itself: GNOME's is [daemon] AutomaticLoginEnable=true and",
        f"# AutomaticLogin={page.user} in /etc/gdm3/custom.conf (Ubuntu, JetPack) or /etc/gdm3/daemon.conf (Debian)",
        "reboot",
    ]


def _server(args: argparse.Namespace) -> tuple[str, str]:
    """Origin of the page, and the server's unit."""
    from ..server.options import gather
    from .serve import unit_text

    given = {"camera": args.camera, "port": args.port, "bundle": args.bundle, "kiosk": True}
    options = gather(given, {}, args.config)
    for name, found in (("unix", options.unix), ("token_file", options.token_file)):
        if found:
            raise RequestError(f"{name}: the browser opens http://localhost:PORT without a token, found {found}")
    if options.port == 0:
        raise RequestError("port: expected the one that the browser opens, found 0")
    if re.fullmatch(r"v4l2:\d+", options.camera or ""):
        sys.stderr.write(f"faceinsight: {options.camera} may be another camera after a restart: see /dev/v4l/by-id\n")
    return f"http://localhost:{options.port}", unit_text(options, given, args.config)


def _browser(root: Path) -> str:
    """The name of the browser that is installed below a root."""
    for name, browser in BROWSERS.items():
        if os.path.lexists(root / browser.program.relative_to("/")):
            return name
    programs = ", ".join(str(b.program) for b in BROWSERS.values())
    raise RequestError(f"no browser found ({programs}): install chromium, or say which one with --browser")


def _check_rights(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise RequestError(f"--apply writes below /etc: expected root, found user {os.geteuid()}: use sudo")
    if not root.is_dir():
        raise RequestError(f"--root {root}: expected a folder")


def _print(changes: Iterable[Change]) -> None:
    for change in changes:
        sys.stdout.write(f"{change}\n")
