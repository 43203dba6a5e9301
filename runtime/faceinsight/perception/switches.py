"""Which characteristics are switched on."""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle.manifest import Manifest
from ..bundle.specs import CharacteristicSpec
from ..errors import PolicyError


def enabled(manifest: Manifest, allow: Sequence[str], deny: Sequence[str] = ()) -> tuple[CharacteristicSpec, ...]:
    """The characteristics without a switch, and those whose switch is on.

    Raises:
        PolicyError: a group cannot be switched, or is both allowed and denied.
    """
    for group in (*allow, *deny):
        if group not in manifest.switches:
            known = ", ".join(manifest.switches) or "no switches"
            raise PolicyError(f"cannot switch {group!r}; this bundle knows {known}")
    for group in allow:
        if group in deny:
            raise PolicyError(f"{group!r} is both allowed and denied")
    on = {g for g, default in manifest.switches.items() if (default or g in allow) and g not in deny}
    return tuple(c for c in manifest.characteristics if c.group == "" or c.group in on)
