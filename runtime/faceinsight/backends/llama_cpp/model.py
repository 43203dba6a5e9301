"""One GGUF model and one context in llama.cpp: rows in, logits out, and what its KV cache holds."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, FaceInsightError, MemoryShortError, QuestionError, RequestError
from ...host.forks import never_freed, starts_threads
from ...host.memory import room
from ..device import Device
from .bindings import import_llama, llama_version, set_params, silence_log
from .embeddings import Embeddings
from .threads import Threads

#: What goes in: tokens, or embeddings (n,width).
Rows = list[int] | NDArray[np.float32]
#: Sequences beside the main one: so many questions about one face go through the LLM at once.
BRANCHES = 16
#: Rows that llama.cpp computes at once on a CPU.
CHUNK = 256
#: Context parameters for comparing with a reference: float32 KV cache and plain attention; slower and larger.
EXACT = {"type_k": 0, "type_v": 0, "flash_attn_type": 0}


class Llm:
    """Model and context. Sequence 0 is the conversation; others branch off from it. Not thread-safe.

    model, pointer: llama.cpp's handles of both.
    """

    # What close() looks at, also where __init__ failed early.
    model: Any = None
    pointer: Any = None

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        width: int,
        context: int,
        parameters: Mapping[str, Any] | None = None,
        repack: bool = True,
    ) -> None:
        """Load a GGUF. `loader.load_llm` also finds out whether weights may be repacked.

        Args:
            path: the GGUF.
            device: thread budget, and whether the layers go to the GPU.
            width: embedding width that the file must have.
            context: tokens that the KV cache holds.
            parameters: overrides for llama.cpp's context parameters.
            repack: rearrange weights for this CPU's units; not where its AMX kernels are broken.
        """
        self._c: Any = import_llama()
        starts_threads(self._c._lib, gpu=device.llm_on_gpu)
        never_freed(self)
        silence_log(self._c)
        self._c.llama_backend_init()
        #: Layers that llama.cpp was told to put on the GPU: all that there are, or none.
        self.gpu_layers = 999 if device.llm_on_gpu else 0
        # Weights are repacked for the CPU: mapped, the file's pages would stay in memory beside the copy.
        mode = self._c.LLAMA_LOAD_MODE_NONE
        chosen = {"n_gpu_layers": self.gpu_layers, "load_mode": mode, "use_extra_bufts": repack}
        model_params = set_params(self._c.llama_model_default_params(), chosen)
        self.model = self._c.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            if not room(2 * path.stat().st_size):
                raise MemoryShortError(f"memory is short: llama.cpp could not load {path.name}; see `faceinsight fit`")
            raise BundleError(f"{path} does not load in llama.cpp (llama-cpp-python {llama_version()})")
        found = self._c.llama_model_n_embd(self.model)
        if found != width:
            raise BundleError(f"{path.name} has embedding width {found}, the manifest says {width}")
        self.context = context
        self._size = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self.model))
        self._embeddings = Embeddings.open(path)
        params = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), context)
        if not device.llm_on_gpu:
            # On a CPU, flash attention wins by little where many rows go in at once, and loses by far where fewer than
            # 64 do, as in a question. Without it, large batches take memory (benchmarks/settings.py).
            params |= {"flash_attn_type": self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED, "n_ubatch": min(context, CHUNK)}
        params |= dict.fromkeys(("n_threads", "n_threads_batch"), device.threads)
        # What the GPU computes waits for no thread.
        self._threads = None if device.llm_on_gpu else Threads(device.threads)
        self._set = device.threads
        # Branches share the cells of what they have in common.
        params |= {"n_seq_max": 1 + BRANCHES, "kv_unified": True}
        params |= parameters or {}
        self.pointer = self._c.llama_init_from_model(
            self.model, set_params(self._c.llama_context_default_params(), params)
        )
        if not self.pointer:
            raise MemoryShortError(f"llama.cpp could not make a context of {context} tokens: memory is short")
        self._memory = self._c.llama_get_memory(self.pointer)

    def joined(self, parts: Sequence[Rows], *, embedded: bool = False) -> list[Rows]:
        """The same rows in as few blocks as llama.cpp can take: a batch holds tokens or embeddings, not both.

        embedded: make embeddings of tokens even where all are tokens.
        """
        parts = [p for p in parts if len(p)]
        if self._embeddings and (embedded or not all(isinstance(p, list) for p in parts)):
            parts = [self._embeddings(p) if isinstance(p, list) else p for p in parts]
        out: list[Rows] = []
        for part in parts:
            last = out[-1] if out else None
            if isinstance(part, list) and isinstance(last, list):
                out[-1] = last + part
            elif isinstance(part, np.ndarray) and isinstance(last, np.ndarray):
                out[-1] = np.concatenate([last, part])
            else:
                out.append(part)
        return out

    def decode(self, blocks: Sequence[Rows], at: int) -> int:
        """Run blocks of rows from position `at` of the conversation; returns the position behind them."""
        for rows in blocks:
            self._run(rows, np.arange(at, at + len(rows)), np.zeros(len(rows), np.int32), [len(rows) - 1])
            at += len(rows)
        return at

    def branch(self, blocks: Sequence[Rows], at: int) -> list[NDArray[np.float32]]:
        """Logits (vocabulary,) behind each of at most BRANCHES blocks, all of one kind, each by itself following the
        conversation's first `at` rows. The conversation stays as it was."""
        sequences = range(1, 1 + len(blocks))
        for s in sequences:
            self._c.llama_memory_seq_cp(self._memory, 0, s, 0, at)
        try:
            lengths = [len(b) for b in blocks]
            ends = np.cumsum(lengths) - 1
            (rows,) = self.joined(blocks)
            positions = np.concatenate([np.arange(at, at + n) for n in lengths])
            self._run(rows, positions, np.repeat(np.array(sequences, np.int32), lengths), ends.tolist())
            return [self.logits(int(e)).copy() for e in ends]
        finally:
            for s in sequences:
                self._c.llama_memory_seq_rm(self._memory, s, -1, -1)

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """(vocabulary,) of a row of the last batch that was asked for; overwritten by the next one."""
        return np.ctypeslib.as_array(self._c.llama_get_logits_ith(self.pointer, row), (self._size,))

    def trim(self, at: int) -> None:
        """Drop the conversation from position `at` on."""
        self._c.llama_memory_seq_rm(self._memory, 0, at, -1)

    def save(self) -> NDArray[np.uint8]:
        """What the KV cache holds of the conversation."""
        data = np.empty(self._c.llama_state_seq_get_size(self.pointer, 0), np.uint8)
        kept = self._c.llama_state_seq_get_data(self.pointer, _pointer(data, ctypes.c_uint8), len(data), 0)
        if kept != len(data):
            raise FaceInsightError(f"llama.cpp saved {kept} bytes of its KV cache, expected {len(data)}")
        return data

    def restore(self, data: NDArray[np.uint8]) -> int:
        """Put back what `save` gave, in place of the conversation; returns the position behind it."""
        self.trim(0)
        if not self._c.llama_state_seq_set_data(self.pointer, _pointer(data, ctypes.c_uint8), len(data), 0):
            self.wipe()
            raise FaceInsightError("llama.cpp did not take back a part of its KV cache; the cache was cleared")
        return self.position

    @property
    def position(self) -> int:
        """Rows of the conversation that the KV cache holds."""
        return int(self._c.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def wipe(self) -> None:
        """Overwrite the KV cache with zeros."""
        if self.pointer:
            self._c.llama_memory_clear(self._memory, True)

    def require_open(self) -> None:
        """Raises RequestError once it is closed."""
        if not self.pointer:
            raise RequestError("this FaceInsight is closed; load it again")

    def close(self) -> None:
        """Free context and model."""
        if self.pointer:
            self.wipe()
            self._c.llama_free(self.pointer)
            self.pointer = None
        if self.model:
            self._c.llama_model_free(self.model)
            self.model = None

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # When Python ends, the bindings may be gone already, and the system takes all memory back.
        if not ending():
            self.close()

    def _run(self, rows: Rows, positions: NDArray[np.int64], sequences: NDArray[np.int32], wanted: list[int]) -> None:
        """Decode rows at these positions of these sequences; logits of the rows that are `wanted`."""
        self.require_open()
        count = len(rows)
        if int(positions[-1]) >= self.context or count > self.context:
            found = max(int(positions[-1]) + 1, count)
            raise QuestionError(f"{found} tokens do not fit the context of {self.context}: shorten the question")
        positions = positions.astype(np.int32)
        outputs = np.zeros(count, np.int8)
        outputs[wanted] = 1
        numbers = np.ones(count, np.int32)
        # Each row names its sequences by pointer.
        owners = sequences.ctypes.data + sequences.itemsize * np.arange(count, dtype=np.uintp)
        batch = self._c.llama_batch()
        batch.n_tokens = count
        if isinstance(rows, list):
            data: NDArray[Any] = np.array(rows, np.int32)
            batch.token = _pointer(data, ctypes.c_int32)
        else:
            data = np.ascontiguousarray(rows, np.float32)
            batch.embd = _pointer(data, ctypes.c_float)
        batch.pos, batch.n_seq_id = _pointer(positions, ctypes.c_int32), _pointer(numbers, ctypes.c_int32)
        batch.seq_id = _pointer(owners, ctypes.POINTER(ctypes.c_int32))
        batch.logits = _pointer(outputs, ctypes.c_int8)
        status = self._decoded(batch)
        if status != 0:
            self.wipe()
            raise FaceInsightError(f"llama.cpp could not decode (status {status}); the cache was cleared, ask again")

    def _decoded(self, batch: Any) -> int:
        """llama_decode, with as many threads as are free."""
        if self._threads is None:
            return int(self._c.llama_decode(self.pointer, batch))
        if self._set != self._threads.count:
            self._set = self._threads.count
            self._c.llama_set_n_threads(self.pointer, self._set, self._set)
        began = time.perf_counter()
        status = int(self._c.llama_decode(self.pointer, batch))
        if batch.n_tokens == 1:
            self._threads.took(time.perf_counter() - began)
        return status


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
