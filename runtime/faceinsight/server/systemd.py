"""A server under systemd: what it tells the service manager, and the unit that `--print-unit` writes.

sd_notify(3): one datagram to the socket that $NOTIFY_SOCKET names. Nothing is sent where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence

from .supervisor import Supervisor

log = logging.getLogger(__name__)

#: Seconds between two requests for more time while a bundle loads; each one asks for twice as much.
_LOADING = 10.0
#: systemd takes more than two notifications a second for a flood (systemd#37288).
_SHORTEST = 0.5


def notify(*lines: str) -> None:
    """Tell systemd, if it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as e:
        log.warning("systemd cannot be told %s: %s", lines[0], e.strerror)


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """After how many seconds without a ping systemd ends this process; None: never."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or int(text) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1e6


async def report(supervisor: Supervisor) -> None:
    """READY once the first worker is; from then on pings, as long as a worker shows that it lives.

    The event loop sends them, so they also end where that is stuck. A worker that was given up on (degraded) ends them
    too: systemd then starts the whole server anew.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return
    while True:
        notify(f"EXTEND_TIMEOUT_USEC={2e6 * _LOADING:.0f}", "STATUS=loading the bundle")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(supervisor.wait_ready(), _LOADING)
            break
    if supervisor.info is None:
        return
    notify("READY=1", f"STATUS=serves {supervisor.info['bundle']}")
    limit = watchdog_seconds(os.environ, os.getpid())
    while limit:
        if supervisor.is_alive(limit):
            notify("WATCHDOG=1")
        await asyncio.sleep(max(limit / 2, _SHORTEST))


def unit(
    command: Sequence[str],
    *,
    secrets: Mapping[str, str],
    local: bool,
    device: str,
    camera: str | None = None,
    watchdog: int = 30,
) -> str:
    """The text of a unit.

    Args:
        command: what it starts; the first word is the program's absolute path.
        secrets: "token" for --token-file, say, and its file: read by systemd as root and handed over as a credential.
        local: does it talk to this machine only? Then the kernel drops packets of all others.
        device: "cpu" needs no device files.
        camera: a source, which may need some, or the network.
        watchdog: seconds without a ping after which the server is started anew.
    """
    kind = (camera or "").partition(":")[0]
    files = "PrivateDevices=yes\n"
    if device != "cpu" or kind == "csi":
        files = "SupplementaryGroups=video render\n"
    elif kind == "v4l2":
        files = "DevicePolicy=closed\nDeviceAllow=char-video4linux rw\nSupplementaryGroups=video\n"
    words = [*command, *(w for name in secrets for w in (f"--{name}-file", f"${{CREDENTIALS_DIRECTORY}}/{name}"))]
    filling = {
        "exec": " ".join(w if w.startswith("${") else _quoted(w) for w in words),
        "watchdog": str(watchdog),
        "credential": "".join(f"LoadCredential={name}:{path}\n" for name, path in secrets.items()),
        "network": "IPAddressDeny=any\nIPAddressAllow=localhost\n" if local and not kind.startswith("rtsp") else "",
        "devices": files,
        # A Jetson's cameras are reached through a socket in /tmp.
        "private_tmp": "no" if kind == "csi" else "yes",
    }
    return _UNIT.format(**filling)


def _quoted(word: str) -> str:
    """One argument for ExecStart: % and $ are systemd's own, and so are spaces and quotes."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{word}"' if any(c in word for c in " \t'\"\\;") or not word else word


#: No Type=notify-reload (systemd 253) and no RestartSteps (254): JetPack 6 has 249, Debian 12 has 252.
#: SystemCallFilter keeps @resources: the engines choose cores and priorities for their threads.
_UNIT = """\
# faceinsight serve --print-unit > /etc/systemd/system/faceinsight.service
# systemctl daemon-reload && systemctl enable --now faceinsight
[Unit]
Description=FaceInsight, a local server that answers questions about faces
Documentation=man:systemd.service(5)
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={exec}
ExecReload=/bin/kill -HUP $MAINPID
{credential}WatchdogSec={watchdog}
Restart=always
RestartSec=2
TimeoutStopSec=10
# The worker may be ended by the kernel where memory is short, the server goes on.
OOMPolicy=continue
LimitCORE=0
MemorySwapMax=0
UMask=0077

DynamicUser=yes
StateDirectory=faceinsight
CacheDirectory=faceinsight
Environment=HOME=%S/faceinsight XDG_CACHE_HOME=%C/faceinsight
WorkingDirectory=%S/faceinsight

{network}{devices}CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateTmp={private_tmp}
KeyringMode=private
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged

[Install]
WantedBy=multi-user.target
"""
