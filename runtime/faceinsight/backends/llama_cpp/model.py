"""One GGUF model and one context in llama.cpp: tokens or embeddings in, logits out, and its KV cache."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, FaceInsightError, MemoryShortError, QuestionError, RequestError
from ...host.forks import never_freed, starts_threads
from ...host.memory import room
from .bindings import import_llama, llama_version, set_params, silence_log
from .embeddings import Embeddings
from .threads import Threads

#: What is decoded: token ids, or embeddings (n, n_embd).
LlmInput = list[int] | NDArray[np.float32]
#: Sequences beside the main one: so many questions about one face are decoded in parallel.
MAX_PARALLEL_SEQS = 16
#: Physical batch size on a CPU, and on a GPU: llama.cpp's own default.
N_UBATCH = 256
N_UBATCH_GPU = 512
#: Context parameters for comparing with a reference: float32 KV cache and plain attention; slower and larger.
EXACT = {"type_k": 0, "type_v": 0, "flash_attn_type": 0}


class Placement(Protocol):
    """Where the LLM runs; `backends.device.Device` is one."""

    @property
    def threads(self) -> int:
        """Threads for what runs on the CPU."""
        ...

    @property
    def llm_on_gpu(self) -> bool:
        """Do the layers go to the GPU?"""
        ...


class Llm:
    """Model and context. Sequence 0 is the conversation; others branch off from it. Not thread-safe.

    Attributes:
        model: llama.cpp's handle of the model.
        ctx: llama.cpp's handle of the context.
        n_ctx: tokens that the KV cache holds.
        gpu_layers: layers that llama.cpp was told to put on the GPU: all that there are, or none.
    """

    # What close() looks at, also where __init__ failed early.
    model: Any = None
    ctx: Any = None

    def __init__(
        self,
        path: Path,
        device: Placement,
        *,
        n_embd: int,
        n_ctx: int,
        parameters: Mapping[str, Any] | None = None,
        repack: bool = True,
    ) -> None:
        """Load a GGUF. `loader.load_llm` also finds out whether weights may be repacked.

        Args:
            path: the GGUF.
            device: thread budget, and whether the layers go to the GPU.
            n_embd: embedding width that the file must have.
            n_ctx: tokens that the KV cache holds.
            parameters: overrides for llama.cpp's context parameters.
            repack: rearrange weights for this CPU's units; not where its AMX kernels are broken.

        Raises:
            BundleError: the file does not load, or is of another width.
            MemoryShortError: model or context do not fit.
        """
        self._c: Any = import_llama()
        starts_threads(self._c._lib, gpu=device.llm_on_gpu)
        never_freed(self)
        silence_log(self._c)
        self._c.llama_backend_init()
        self.gpu_layers = 999 if device.llm_on_gpu else 0
        self.n_ctx = n_ctx
        self.model = self._load_model(path, n_embd, repack=repack)
        self._n_vocab = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self.model))
        self._embeddings = Embeddings.open(path)
        # What the GPU computes waits for no thread.
        self._threads = None if device.llm_on_gpu else Threads(device.threads)
        self._n_threads = device.threads
        params = self._context_params(device) | dict(parameters or {})
        self.ctx = self._c.llama_init_from_model(self.model, set_params(self._c.llama_context_default_params(), params))
        if not self.ctx:
            raise MemoryShortError(f"llama.cpp could not make a context of {n_ctx} tokens: memory is short")
        self._memory = self._c.llama_get_memory(self.ctx)

    def _load_model(self, path: Path, n_embd: int, *, repack: bool) -> Any:
        # Weights are repacked for the CPU: mapped, the file's pages would stay in memory beside the copy.
        mode = self._c.LLAMA_LOAD_MODE_NONE
        chosen = {"n_gpu_layers": self.gpu_layers, "load_mode": mode, "use_extra_bufts": repack}
        params = set_params(self._c.llama_model_default_params(), chosen)
        model = self.model = self._c.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            if not room(2 * path.stat().st_size):
                raise MemoryShortError(f"memory is short: llama.cpp could not load {path.name}; see `faceinsight fit`")
            if self.gpu_layers and self._has_vocabulary(path):
                raise MemoryShortError(
                    f"llama.cpp reads {path.name}, but could not put it on the GPU, whose memory may be short: close "
                    "other programs, choose device='cpu', or see `faceinsight doctor`"
                )
            raise BundleError(f"{path} does not load in llama.cpp (llama-cpp-python {llama_version()})")
        found = self._c.llama_model_n_embd(model)
        if found != n_embd:
            raise BundleError(f"{path.name} has embedding width {found}, the manifest says {n_embd}")
        return model

    def _has_vocabulary(self, path: Path) -> bool:
        """Does llama.cpp know this file, if it loads nothing else of it?"""
        params = set_params(self._c.llama_model_default_params(), {"vocab_only": True, "n_gpu_layers": 0})
        model = self._c.llama_model_load_from_file(str(path).encode(), params)
        if model:
            self._c.llama_model_free(model)
        return bool(model)

    def _context_params(self, device: Placement) -> dict[str, Any]:
        params = dict.fromkeys(("n_ctx", "n_batch"), self.n_ctx)
        # Room for logits and for what a layer computes is taken for so many tokens from the start: on a GPU it is real.
        params |= {"n_ubatch": min(self.n_ctx, N_UBATCH_GPU), "n_outputs_max": 1 + MAX_PARALLEL_SEQS}
        if not device.llm_on_gpu:
            # On a CPU, flash attention wins by little where many tokens go in at once, and loses by far where fewer
            # than 64 do, as in a question. Without it, large batches take memory (benchmarks/speed/settings.py).
            params |= {
                "flash_attn_type": self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED,
                "n_ubatch": min(self.n_ctx, N_UBATCH),
            }
        params |= dict.fromkeys(("n_threads", "n_threads_batch"), device.threads)
        # Parallel sequences share the cells of what they have in common.
        return params | {"n_seq_max": 1 + MAX_PARALLEL_SEQS, "kv_unified": True}

    def pack(self, parts: Sequence[LlmInput], *, embedded: bool = False) -> list[LlmInput]:
        """The same input in as few blocks as llama.cpp can take: a batch holds tokens or embeddings, not both.

        Args:
            parts: token ids and embeddings, in order; empty ones are left out.
            embedded: make embeddings of tokens even where all are tokens.
        """
        parts = [p for p in parts if len(p)]
        if self._embeddings and (embedded or not all(isinstance(p, list) for p in parts)):
            parts = [self._embeddings(p) if isinstance(p, list) else p for p in parts]
        blocks: list[LlmInput] = []
        for part in parts:
            last = blocks[-1] if blocks else None
            if isinstance(part, list) and isinstance(last, list):
                blocks[-1] = last + part
            elif isinstance(part, np.ndarray) and isinstance(last, np.ndarray):
                blocks[-1] = np.concatenate([last, part])
            else:
                blocks.append(part)
        return blocks

    def decode(self, blocks: Sequence[LlmInput], pos: int) -> int:
        """Decode blocks from position `pos` of the conversation on; returns the position behind them.

        Raises:
            QuestionError: they do not fit the context.
            FaceInsightError: llama.cpp could not decode; the cache was cleared.
        """
        for block in blocks:
            self._decode(block, np.arange(pos, pos + len(block)), np.zeros(len(block), np.int32), [len(block) - 1])
            pos += len(block)
        return pos

    def decode_parallel(self, blocks: Sequence[LlmInput], n_past: int) -> list[NDArray[np.float32]]:
        """Decode at most MAX_PARALLEL_SEQS blocks at once, each as if it alone followed the conversation.

        Args:
            blocks: all tokens, or all embeddings.
            n_past: they share this many first positions of the conversation, which stays as it was.

        Returns:
            The logits (n_vocab,) after each block.
        """
        seq_ids = range(1, 1 + len(blocks))
        for s in seq_ids:
            self._c.llama_memory_seq_cp(self._memory, 0, s, 0, n_past)
        try:
            lengths = [len(b) for b in blocks]
            ends = np.cumsum(lengths) - 1
            (packed,) = self.pack(blocks)
            positions = np.concatenate([np.arange(n_past, n_past + n) for n in lengths])
            self._decode(packed, positions, np.repeat(np.array(seq_ids, np.int32), lengths), ends.tolist())
            return [self.logits(int(e)).copy() for e in ends]
        finally:
            for s in seq_ids:
                self._c.llama_memory_seq_rm(self._memory, s, -1, -1)

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """(n_vocab,) after a token of the last batch whose logits were wanted; overwritten by the next batch."""
        return np.ctypeslib.as_array(self._c.llama_get_logits_ith(self.ctx, index), (self._n_vocab,))

    def truncate(self, pos: int) -> None:
        """Drop the conversation from position `pos` on."""
        self._c.llama_memory_seq_rm(self._memory, 0, pos, -1)

    def save(self) -> NDArray[np.uint8]:
        """What the KV cache holds of the conversation."""
        data = np.empty(self._c.llama_state_seq_get_size(self.ctx, 0), np.uint8)
        size = self._c.llama_state_seq_get_data(self.ctx, _pointer(data, ctypes.c_uint8), len(data), 0)
        if size != len(data):
            raise FaceInsightError(f"llama.cpp saved {size} bytes of its KV cache, expected {len(data)}")
        return data

    def restore(self, data: NDArray[np.uint8]) -> int:
        """Put back what `save` gave, in place of the conversation; returns the position behind it."""
        self.truncate(0)
        if not self._c.llama_state_seq_set_data(self.ctx, _pointer(data, ctypes.c_uint8), len(data), 0):
            self.clear()
            raise FaceInsightError("llama.cpp did not take back a part of its KV cache; the cache was cleared")
        return self.n_past

    @property
    def n_past(self) -> int:
        """Positions of the conversation that the KV cache holds."""
        return int(self._c.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def clear(self) -> None:
        """Overwrite the KV cache with zeros."""
        if self.ctx:
            self._c.llama_memory_clear(self._memory, True)

    def require_open(self) -> None:
        """Raises RequestError once it is closed."""
        if not self.ctx:
            raise RequestError("this FaceInsight is closed; load it again")

    def close(self) -> None:
        """Free context and model."""
        if self.ctx:
            self.clear()
            self._c.llama_free(self.ctx)
            self.ctx = None
        if self.model:
            self._c.llama_model_free(self.model)
            self.model = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When Python ends, the bindings may be gone already, and the system takes all memory back.
        if not is_finalizing():
            self.close()

    def _decode(
        self, block: LlmInput, positions: NDArray[np.int64], seq_ids: NDArray[np.int32], wanted: list[int]
    ) -> None:
        """Decode a block at these positions of these sequences, with logits of the tokens `wanted`."""
        self.require_open()
        n = len(block)
        if int(positions[-1]) >= self.n_ctx or n > self.n_ctx:
            found = max(int(positions[-1]) + 1, n)
            raise QuestionError(f"{found} tokens do not fit the context of {self.n_ctx}: shorten the question")
        batch = self._c.llama_batch()
        batch.n_tokens = n
        if isinstance(block, list):
            data: NDArray[Any] = np.array(block, np.int32)
            batch.token = _pointer(data, ctypes.c_int32)
        else:
            data = np.ascontiguousarray(block, np.float32)
            batch.embd = _pointer(data, ctypes.c_float)
        pos = positions.astype(np.int32)
        n_seq_id = np.ones(n, np.int32)
        # llama_batch.seq_id is an array of pointers, one per token, to that token's sequence ids (n_seq_id of them).
        seq_id = seq_ids.ctypes.data + seq_ids.itemsize * np.arange(n, dtype=np.uintp)
        output = np.zeros(n, np.int8)
        output[wanted] = 1
        batch.pos, batch.n_seq_id = _pointer(pos, ctypes.c_int32), _pointer(n_seq_id, ctypes.c_int32)
        batch.seq_id = _pointer(seq_id, ctypes.POINTER(ctypes.c_int32))
        batch.logits = _pointer(output, ctypes.c_int8)
        status = self._llama_decode(batch)
        if status != 0:
            self.clear()
            raise FaceInsightError(f"llama.cpp could not decode (status {status}); the cache was cleared, ask again")

    def _llama_decode(self, batch: Any) -> int:
        """llama_decode, with as many threads as are free."""
        if self._threads is None:
            return int(self._c.llama_decode(self.ctx, batch))
        if self._n_threads != self._threads.count:
            self._n_threads = self._threads.count
            self._c.llama_set_n_threads(self.ctx, self._n_threads, self._n_threads)
        began = time.perf_counter()
        status = int(self._c.llama_decode(self.ctx, batch))
        if batch.n_tokens == 1:
            self._threads.took(time.perf_counter() - began)
        return status


def _pointer(array: NDArray[Any], ctype: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctype))
