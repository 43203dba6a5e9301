"""Store an ONNX graph's large weights in half precision and cast them back where they are used.

Halves the file; ONNX Runtime folds the casts when it loads, so it computes in float32 as before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from faceinsight_models.storage import MIN_ELEMENTS


def store_fp16(path: Path) -> None:
    """Rewrite the file in place. Weights beyond half precision's range are left alone."""
    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < MIN_ELEMENTS:
            continue
        value = numpy_helper.to_array(tensor)
        if np.abs(value).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    # Types inferred for what are now cast outputs stay right; stale shapes of initializers do not matter.
    onnx.checker.check_model(model)
    onnx.save(model, path)
