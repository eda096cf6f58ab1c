"""Split experts' tokens among their replicas so that the hottest GPU has as few as can be.

Per layer this is the linear program: minimise M where an expert's fractions add up to one and no
GPU has more than M tokens. It is solved exactly, as a flow. For a guess M that is too low, a
maximum flow from experts to GPUs leaves tokens over, and its minimum cut names GPUs that are too
full: the tokens that can go nowhere else, over the number of these GPUs, are a lower bound on the
optimum and the next guess (Newton's method on a parametric cut; Gallo, Grigoriadis and Tarjan,
1989). The guess that lets everything pass is the optimum; a few rounds reach it, for many layers
in one graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from eplb.placement import ExpertPlacement

# Flows are whole numbers of four bytes: one layer's tokens are this many. Guesses are exact.
_UNITS = 2**30
_ROWS_AT_ONCE = 1024


def lp_shares(load: np.ndarray, placement: ExpertPlacement, num_gpus: int) -> np.ndarray:
    """[..., layers, slots] float64: the share of its expert's tokens that each slot gets.

    load: [..., layers, experts] tokens. Of the many splits with the coolest hottest GPU it is one;
    where a GPU holds an expert twice, one of the two slots has its tokens.
    """
    layers, slots = placement.phy2log.shape
    tokens = load.reshape(-1, load.shape[-1]).astype(np.float64)
    total = tokens.sum(axis=1, keepdims=True)
    tokens = np.divide(tokens, total, out=np.zeros_like(tokens), where=total > 0)
    share = np.empty((len(tokens), slots))
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        part = np.arange(start, min(start + _ROWS_AT_ONCE, len(tokens)))
        share[part] = _solve(tokens[part], placement.phy2log[part % layers], num_gpus)
    return share.reshape(*load.shape[:-1], slots)


@dataclass(frozen=True)
class _Choices:
    """The experts that more than one GPU holds, one (row, expert) after the other.

    tokens, row: [choices] of each such expert
    expert, gpu: [edges] the number of the choice, and a GPU that holds it as row * num_gpus + GPU
    """

    tokens: np.ndarray
    row: np.ndarray
    expert: np.ndarray
    gpu: np.ndarray


def _solve(tokens: np.ndarray, phy2log: np.ndarray, num_gpus: int) -> np.ndarray:
    """[rows, slots]: shares of ``tokens`` [rows, experts], each row's sum one, in ``phy2log``."""
    rows, experts = tokens.shape
    slots = phy2log.shape[1]
    held = (np.arange(rows)[:, None] * experts + phy2log) * num_gpus
    held += np.arange(slots) // (slots // num_gpus)
    held, slot = np.unique(held, return_index=True)
    expert = held // num_gpus
    gpu = expert // experts * num_gpus + held % num_gpus
    count = np.bincount(expert, minlength=rows * experts)
    fixed = count[expert] == 1
    share = np.zeros(rows * slots)
    share[slot[fixed]] = 1.0
    if not fixed.all():
        base = np.bincount(gpu[fixed], tokens.ravel()[expert[fixed]], minlength=rows * num_gpus)
        chosen, number = np.unique(expert[~fixed], return_inverse=True)
        choices = _Choices(tokens.ravel()[chosen], chosen // experts, number, gpu[~fixed])
        share[slot[~fixed]] = _split(choices, base.reshape(rows, num_gpus))
    return share.reshape(rows, slots)


def _split(choices: _Choices, base: np.ndarray) -> np.ndarray:
    """[edges]: the share of its expert that each edge carries, on top of ``base`` [rows, gpus]."""
    rows, num_gpus = base.shape
    total = base.sum(axis=1) + np.bincount(choices.row, choices.tokens, minlength=rows)
    guess = np.maximum(base.max(axis=1), total / num_gpus)
    carried = np.zeros(len(choices.expert))
    open_rows = np.ones(rows, dtype=bool)
    while open_rows.any():
        edge = np.flatnonzero(open_rows[choices.row[choices.expert]])
        flow, full = _max_flow(choices, edge, guess[:, None] - base)
        stuck = np.bincount(choices.expert, ~full[choices.gpu], minlength=len(choices.tokens)) == 0
        held = np.bincount(choices.row, np.where(stuck, choices.tokens, 0.0), minlength=rows)
        full = full.reshape(rows, num_gpus)
        held += np.where(full, base, 0.0).sum(axis=1)
        bound = held / np.maximum(full.sum(axis=1), 1)
        carried[edge] = flow
        open_rows &= bound > guess * (1 + 1e-12)
        guess = np.maximum(guess, bound)
    # What rounding left over goes the way of the rest, and an expert without tokens any way.
    carried += 1e-12
    return carried / np.bincount(choices.expert, carried)[choices.expert]


def _max_flow(
    choices: _Choices, edge: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Units that each of the edges ``edge`` carries, and whether each GPU is in the minimum cut.

    room: [rows, gpus] tokens that still fit. One graph of all rows: source, sink, experts, GPUs.
    """
    number = np.unique(choices.expert[edge])
    units = np.floor(choices.tokens * _UNITS).astype(np.int32)
    room = np.ceil(np.clip(room.ravel(), 0.0, 1.0) * _UNITS).astype(np.int32)
    gpu = np.unique(choices.gpu[edge])
    first_gpu = 2 + len(choices.tokens)
    nodes = first_gpu + len(room)
    source, sink = np.zeros(len(number), dtype=np.int32), np.ones(len(gpu), dtype=np.int32)
    tail = np.concatenate([source, 2 + choices.expert[edge], first_gpu + gpu])
    head = np.concatenate([2 + number, first_gpu + choices.gpu[edge], sink])
    capacity = np.concatenate([units[number], units[choices.expert[edge]], room[gpu]])
    graph = csr_array((capacity, (tail, head)), shape=(nodes, nodes))
    flow = maximum_flow(graph, 0, 1).flow
    residual = graph - flow
    residual.eliminate_zeros()
    reached = np.zeros(nodes, dtype=bool)
    reached[breadth_first_order(residual, 0, return_predecessors=False)] = True
    carried = flow[2 + choices.expert[edge], first_gpu + choices.gpu[edge]]
    return np.asarray(carried, dtype=np.float64).ravel(), reached[first_gpu:]
