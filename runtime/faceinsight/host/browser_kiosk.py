"""A browser that shows one page full screen: the script that starts it, and what starts the script.

The page is what a local server answers; `faceinsight.service` says by `systemctl is-active` when that is ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from .browser_policy import policy_text
from .installer import File

SERVER = "faceinsight.service"
SERVER_UNIT = PurePosixPath("/etc/systemd/system", SERVER)
SCRIPT = PurePosixPath("/usr/local/bin/faceinsight-page")
UNIT = PurePosixPath("/etc/systemd/system/faceinsight-page.service")
DESKTOP = PurePosixPath("/etc/xdg/autostart/faceinsight-page.desktop")
POLICY = "faceinsight.json"
SESSIONS = ("autostart", "cage")


@dataclass(frozen=True, slots=True)
class Browser:
    """A build of Chromium.

    Attributes:
        program: that starts it.
        policies: where it reads managed policies, as its build has it.
        profile: where it may write below $XDG_RUNTIME_DIR.
    """

    program: PurePosixPath
    policies: PurePosixPath
    profile: str = "faceinsight-page"


#: By the name of the package. Ubuntu's is a snap, which its confinement lets write in a folder of its own only, and
#: read policies through the interface chromium:etc-chromium-browser-policies.
BROWSERS = {
    "chromium": Browser(PurePosixPath("/usr/bin/chromium"), PurePosixPath("/etc/chromium/policies/managed")),
    "chromium-browser": Browser(
        PurePosixPath("/snap/bin/chromium"),
        PurePosixPath("/etc/chromium-browser/policies/managed"),
        "snap.chromium/faceinsight-page",
    ),
    "google-chrome": Browser(
        PurePosixPath("/usr/bin/google-chrome"), PurePosixPath("/etc/opt/chrome/policies/managed")
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is shown.

    Attributes:
        origin: "http://localhost:8080".
        user: whose session it is.
        browser: a name of BROWSERS.
        session: "autostart": in that user's desktop; "cage": instead of one.
        language: that the page is asked for in ("de"); None: the browser's.
    """

    origin: str
    user: str
    browser: str
    session: str
    language: str | None = None


def places() -> tuple[PurePosixPath, ...]:
    """Every path that `files` may name, whatever the page."""
    return (SERVER_UNIT, SCRIPT, UNIT, DESKTOP, *(b.policies / POLICY for b in BROWSERS.values()))


def files(page: Page, server_unit: str) -> Iterable[File]:
    """The files of a kiosk.

    Args:
        page: what is shown.
        server_unit: the text of the server's unit.
    """
    policies = BROWSERS[page.browser].policies
    yield File(SERVER_UNIT, server_unit)
    yield File(policies / POLICY, policy_text(page.origin))
    yield File(SCRIPT, script(page), mode=0o755)
    if page.session == "cage":
        yield File(UNIT, _UNIT.format(user=page.user, script=SCRIPT, server=SERVER))
    else:
        yield File(DESKTOP, _DESKTOP.format(script=SCRIPT))


def script(page: Page) -> str:
    """A shell script that waits for the server and shows the page: again and again, or in cage, which is, once."""
    browser, in_cage = BROWSERS[page.browser], page.session == "cage"
    flags = [*_FLAGS]
    if page.language:
        flags.append(f"--accept-lang={page.language}")
    if in_cage:
        flags.append("--ozone-platform=wayland")
    command = [str(browser.program), '--user-data-dir="$profile"', *flags, page.origin]
    return _SCRIPT.format(
        server=SERVER,
        user=page.user,
        profile=browser.profile,
        before=_BUS if in_cage else _AWAKE,
        command=" \\\n        ".join(command),
        run="show" if in_cage else _AGAIN,
    )


#: Each of them is a switch of Chromium 156; those that it once had and has no more are not here.
_FLAGS = (
    "--kiosk",
    "--no-first-run",
    "--no-default-browser-check",
    "--noerrdialogs",
    "--hide-crash-restore-bubble",
    # No question for the password of a keyring.
    "--password-store=basic",
    "--disable-background-networking",
    "--check-for-update-interval=31536000",
    "--disk-cache-size=1",
    # Fingers do not leave or enlarge the page.
    "--disable-pinch",
    "--overscroll-history-navigation=0",
    "--pull-to-refresh=0",
)

#: A dump of a page that crashed holds its pictures; Chromium puts it beside its configuration, not into its profile.
_SCRIPT = """\
#!/bin/sh
# The page of {server}, full screen. Written by faceinsight kiosk install.
[ "$(id -un)" = {user} ] || exit 0
ulimit -c 0
{before}
# In memory, all that the browser writes.
profile="${{XDG_RUNTIME_DIR:?}}/{profile}"
export XDG_CONFIG_HOME="$profile" XDG_CACHE_HOME="$profile" TMPDIR="$profile"

show() {{
    until systemctl is-active --quiet {server}; do sleep 1; done
    rm -rf "$profile"
    mkdir -p "$profile"
    {command}
}}

{run}
"""

#: The screen stays on, and is not locked.
_AWAKE = """
if [ -n "$DISPLAY" ] && command -v xset > /dev/null; then
    xset s off s noblank -dpms
fi
if command -v gsettings > /dev/null; then
    gsettings set org.gnome.desktop.session idle-delay 0
    gsettings set org.gnome.desktop.screensaver lock-enabled false
    gsettings set org.gnome.settings-daemon.plugins.power sleep-inactive-ac-type nothing
fi
"""

_BUS = """
export DBUS_SESSION_BUS_ADDRESS="${DBUS_SESSION_BUS_ADDRESS:-unix:path=$XDG_RUNTIME_DIR/bus}"
"""

#: Until the session ends.
_AGAIN = """\
while [ -d "$XDG_RUNTIME_DIR" ]; do
    show
    sleep 2
done"""

_DESKTOP = """\
[Desktop Entry]
Type=Application
Name=FaceInsight
Comment=The page of the kiosk, full screen
Exec={script}
Terminal=false
NoDisplay=true
X-GNOME-Autostart-enabled=true
"""

#: A session of logind by PAM, at the first virtual terminal: that gives cage the screen and the input devices.
#: RestartSec lets the server's restart come first.
_UNIT = """\
[Unit]
Description=The page of FaceInsight, full screen
Wants={server}
After={server} systemd-user-sessions.service systemd-logind.service plymouth-quit-wait.service getty@tty1.service
Conflicts=getty@tty1.service
StartLimitIntervalSec=0

[Service]
User={user}
PAMName=login
TTYPath=/dev/tty1
TTYReset=yes
TTYVHangup=yes
TTYVTDisallocate=yes
StandardInput=tty
StandardOutput=journal
StandardError=journal
UtmpIdentifier=tty1
UtmpMode=user
Environment=XDG_SESSION_TYPE=wayland
ExecStart=/usr/bin/cage -d -- {script}
Restart=always
RestartSec=2
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""
