# Before anything imports ONNX Runtime: it switches the telemetry off.
import faceinsight as faceinsight
