"""Nothing leaves: what dependencies would send is switched off, before they are imported.

ONNX Runtime 1.32 keeps an id of the device and its events in the user's cache folder, and looks for its maker's host
within half a minute, unless the environment says no before it is imported. Whoever wants that sets the variable to 0.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "ORT_DISABLE_TELEMETRY"

if "onnxruntime" not in sys.modules:
    os.environ.setdefault(_VARIABLE, "1")


def telemetry_off() -> bool:
    """Was ONNX Runtime told to send nothing? Not where it was imported before this package, or the user said 0."""
    return os.environ.get(_VARIABLE) == "1"
