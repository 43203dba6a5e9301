"""llama.cpp's own CLIP, through llama-cpp-python: what its chat handler runs on each picture."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from numpy.typing import NDArray

from faceinsight.backends.llama_cpp.bindings import silence_log


class LlamaClip:
    """A picture (H,W,3) uint8 RGB -> its image tokens; decoding and normalizing included, as llama.cpp does it."""

    def __init__(self, clip: Path, llm: Path, *, threads: int) -> None:
        """clip: GGUF of vision tower and projector; llm: GGUF whose width the tokens must have."""
        silence_log(llama_cpp)
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(str(llm).encode(), params)
        self._width = llama_cpp.llama_model_n_embd(self._model)
        settings = mtmd.mtmd_context_params_default()
        settings.use_gpu, settings.print_timings, settings.n_threads = False, False, threads
        self._context = mtmd.mtmd_init_from_file(str(clip).encode(), self._model, settings)
        if self._context is None:
            raise RuntimeError(f"{clip} does not load in llama.cpp's mtmd")

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = picture.shape[:2]
        data = np.ascontiguousarray(picture)
        bitmap = mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text()
            marker = mtmd.mtmd_default_marker()
            text.text, text.text_len, text.add_special, text.parse_special = marker, len(marker), False, True
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
                raise RuntimeError("mtmd did not take the picture")
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    continue
                if mtmd.mtmd_encode_chunk(self._context, chunk):
                    raise RuntimeError("mtmd did not encode the picture")
                count = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
                found = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._context), (1, count, self._width))
                return np.array(found, np.float32)
            raise RuntimeError("mtmd made no image tokens of the picture")
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)
