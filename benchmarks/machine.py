"""What a benchmark ran on."""

from faceinsight.bench.state import machine

__all__ = ["machine"]
