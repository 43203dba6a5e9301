"""From trained parts or a LLaVA checkpoint to a verified bundle."""

# Before anything imports ONNX Runtime: it switches the telemetry off.
import faceinsight as faceinsight
