"""The FaceInsight architecture in torch, its training, and the default bundle.

Importing this package imports no torch.
"""

import faceinsight.host.offline  # noqa: F401 - before anything here imports ONNX Runtime
