"""Fewer image tokens for the LLM: an image's features are merged before the projector, whatever the question.

A step halves the tokens on a fixed pattern: of the square grid every other one stays, as on a chessboard; of that,
every other row. Those that leave are added to the one they resemble most, and tokens become means of what they hold:
bipartite soft matching (ToMe, Bolya et al. 2022) at its largest step, where all of one side merge. As the tokens that
stay are fixed, so are their number, order and place; rounding can move a merged token to another, but reorders none.
Resemblance is the cosine of features less the image's mean feature, for a few large features are common to all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .writer import FLOAT, HALF, OnnxWriter

#: merge: as above. pool: means of neighbours, and random: a fixed choice of tokens, are there to be compared with.
METHODS = ("merge", "pool", "random")
#: Added to a norm before dividing by it.
TINY = np.float32(1e-6)


@dataclass(frozen=True, slots=True)
class TokenReduction:
    """To `tokens` of a square grid's side*side features.

    Attributes:
        side: of the grid.
        tokens: how many are left.
        method: one of METHODS.
        seed: of the method "random".

    Raises:
        ValueError: halving does not lead to this number, or the method is unknown.
    """

    side: int
    tokens: int
    method: str = "merge"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.tokens not in token_counts(self.side):
            raise ValueError(
                f"{self.tokens} tokens; expected one of {', '.join(map(str, token_counts(self.side)))} "
                f"of a grid of {self.side}x{self.side}"
            )


def token_counts(side: int) -> list[int]:
    """Numbers of tokens that halving a square grid leads to, largest first."""
    out = [side * side]
    while side % 2 == 0:
        out += [side * side // 2, side * side // 4]
        side //= 2
    return out


def reduce(features: NDArray[np.float32], reduction: TokenReduction) -> NDArray[np.float32]:
    """(B,side*side,C) float32 -> (B,tokens,C), in numpy: what the graph computes."""
    if reduction.method == "pool":
        return _pooling(reduction) @ features
    if reduction.method == "random":
        return features[:, _chosen(reduction)]
    mean = features.mean(1, keepdims=True)
    sums, counts = features, np.ones((1, features.shape[1], 1), np.float32)
    for stay, leave in _steps(reduction):
        centered = sums - counts * mean
        ours = centered[:, stay]
        ours = ours / (np.linalg.norm(ours, axis=2, keepdims=True) + TINY)
        best = (centered[:, leave] @ ours.swapaxes(1, 2)).argmax(2)
        moves = (best[:, None] == np.arange(len(stay))[None, :, None]).astype(np.float32)
        sums = sums[:, stay] + moves @ sums[:, leave]
        counts = counts[:, stay] + moves @ counts[:, leave]
    return sums / counts


def write_reduction(graph: OnnxWriter, x: str, reduction: TokenReduction, *, fp16: bool) -> str:
    """Nodes for `reduce` on the value named x, (B,side*side,C), of float16 if `fp16`."""
    dtype = np.float16 if fp16 else np.float32
    if reduction.method == "pool":
        return graph.add("MatMul", graph.constant(_pooling(reduction).astype(dtype)), x, name="budget")
    if reduction.method == "random":
        return _gather(graph, x, _chosen(reduction), "budget")
    # Norms of large features do not fit in half precision.
    sums = graph.add("Cast", x, name="budget.float", attributes={"to": FLOAT}) if fp16 else x
    mean = graph.add("ReduceMean", sums, graph.constant(np.array([1])), name="budget.mean")
    counts = graph.constant(np.ones((1, reduction.side**2, 1), np.float32))
    for number, (stay, leave) in enumerate(_steps(reduction)):
        sums, counts = _write_step(graph, sums, counts, mean, stay, leave, f"budget.{number}")
    if not fp16:
        return graph.add("Div", sums, counts, name="budget")
    means = graph.add("Div", sums, counts, name="budget.means")
    return graph.add("Cast", means, name="budget", attributes={"to": HALF})


def _write_step(
    graph: OnnxWriter, sums: str, counts: str, mean: str, stay: NDArray[np.int64], leave: NDArray[np.int64], at: str
) -> tuple[str, str]:
    share = graph.add("Mul", counts, mean, name=f"{at}.share")
    centered = graph.add("Sub", sums, share, name=f"{at}.centred")
    ours, theirs = _gather(graph, centered, stay, f"{at}.stay"), _gather(graph, centered, leave, f"{at}.leave")
    norm = graph.add("ReduceL2", ours, graph.constant(np.array([2])), name=f"{at}.norm")
    norm = graph.add("Add", norm, graph.constant(np.array(TINY)), name=f"{at}.safe")
    ours = graph.add("Div", ours, norm, name=f"{at}.unit")
    ours = graph.add("Transpose", ours, name=f"{at}.columns", attributes={"perm": [0, 2, 1]})
    cosine = graph.add("MatMul", theirs, ours, name=f"{at}.cosine")
    best = graph.add("ArgMax", cosine, name=f"{at}.best", attributes={"axis": 2, "keepdims": 0})
    best = graph.add("Unsqueeze", best, graph.constant(np.array([1])), name=f"{at}.goal")
    numbers = graph.constant(np.arange(len(stay)).reshape(1, -1, 1))
    moves = graph.add("Equal", best, numbers, name=f"{at}.equal")
    moves = graph.add("Cast", moves, name=f"{at}.moves", attributes={"to": FLOAT})
    merged = []
    for value, name in ((sums, f"{at}.sums"), (counts, f"{at}.counts")):
        moved = graph.add("MatMul", moves, _gather(graph, value, leave, f"{name}.leave"), name=f"{name}.moved")
        merged.append(graph.add("Add", _gather(graph, value, stay, f"{name}.stay"), moved, name=name))
    return merged[0], merged[1]


def _gather(graph: OnnxWriter, x: str, indices: NDArray[np.int64], name: str) -> str:
    return graph.add("Gather", x, graph.constant(indices), name=name, attributes={"axis": 1})


def _steps(reduction: TokenReduction) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each halving, the places among the tokens there are: of those that stay, and of those that leave."""
    row, column = np.divmod(np.arange(reduction.side**2), reduction.side)
    while len(row) > reduction.tokens:
        # A square grid keeps its chessboard; a chessboard keeps its even rows, a square grid of half the side.
        square = bool(((row + column) % 2).any())
        stays = (row + column) % 2 == 0 if square else row % 2 == 0
        yield np.flatnonzero(stays), np.flatnonzero(~stays)
        row, column = row[stays], column[stays]
        if not square:
            row, column = row // 2, column // 2


def _pooling(reduction: TokenReduction) -> NDArray[np.float32]:
    """(tokens,side*side): means over blocks of the grid; an odd number of halvings has them twice as wide as high."""
    area = reduction.side**2 // reduction.tokens
    block_height = 2 ** ((area.bit_length() - 1) // 2)
    block_width = area // block_height
    row, column = np.divmod(np.arange(reduction.side**2), reduction.side)
    block = row // block_height * (reduction.side // block_width) + column // block_width
    pooling: Any = (np.arange(reduction.tokens)[:, None] == block) / area
    return pooling.astype(np.float32)  # type: ignore[no-any-return]


def _chosen(reduction: TokenReduction) -> NDArray[np.int64]:
    """Places of a random choice of tokens, in their order."""
    chosen = np.random.default_rng(reduction.seed).permutation(reduction.side**2)[: reduction.tokens]
    return np.sort(chosen)
