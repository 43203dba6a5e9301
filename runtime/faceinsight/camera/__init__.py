"""Frames of cameras, streams and videos."""

from .capture import Camera, CameraStatus
from .y4m import Frame

__all__ = ["Camera", "CameraStatus", "Frame"]
