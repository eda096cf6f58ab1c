"""Programs that the operators are tried on: the seed, and two that have nothing to do with it."""

from __future__ import annotations

import random
from pathlib import Path

from eplb.proposer import grafting, mutations, simplifications
from eplb.proposer.mutations import Sources
from eplb.proposer.parts import read_catalogue
from eplb.proposer.program import Program

SEED = (Path(__file__).parents[2] / "initial.py").read_text()

# Two blocks, decorators, a class, f-strings, tabs, text beyond ASCII, a string with blank lines.
FOREIGN = '''"""Something else — with “quotes”."""
import functools, math
LIMIT = 7


# EVOLVE-BLOCK-START
import heapq

RATE, unused = 0.25, 3
TEXT = """a

b"""


@functools.lru_cache(maxsize=32)
def cost(ä, b=2):
\t"""Tabs, and a default."""
\tif ä > 3: return f"{ä:.{b}f} {'x' if b else 'y'}"
\treturn math.sqrt(ä) * 2.5 if b else ä


def same(x):
    return x


class Queue:
    scale = 1.5

    def push(self, item):
        dead = item
        with open(item) as handle, functools.nullcontext():
            self.item = (item, 3 * 14, handle)
        with functools.nullcontext():
            again = same(item)
            if True:
                self.item = again
            else:
                self.item = -2.5
        return same(same(self.item.copy()))


# EVOLVE-BLOCK-END
def outside(x):
    # EVOLVE-BLOCK-START
    if x > LIMIT:
        x = x
        y = 2 * x
    elif x < -12:
        y = -x
    else:
        y = 0.5
    # EVOLVE-BLOCK-END
    return cost(y), Queue, TEXT, heapq, 0.5
'''

# DeepSeek's names and arities: `replicate_experts` returns three values, which no part gives.
OTHER_NAMES = """import torch
# EVOLVE-BLOCK-START
def deal(weight, num_packs):
    n = weight.shape[1]
    index = torch.arange(n).expand(weight.shape[0], n) % num_packs
    return index, torch.arange(n).expand(weight.shape[0], n) // num_packs


def replicate_experts(weight, num_phy):
    logcnt = torch.ones_like(weight, dtype=torch.int64)
    return torch.arange(num_phy).expand(len(weight), num_phy), logcnt, logcnt


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    weight = weight.float()
    a, b = deal(weight, num_gpus)
    c, d = deal(weight, num_nodes) if num_nodes > 1 else (a, b)
    return replicate_experts(weight, num_replicas) + (a, b, c, d)
# EVOLVE-BLOCK-END
run = rebalance_experts
"""

POOL = {"seed": SEED, "foreign": FOREIGN, "other names": OTHER_NAMES}

PARTS = read_catalogue()
OPERATORS = (
    mutations.perturb_constant,
    mutations.change_condition,
    mutations.swap_function,
    mutations.insert_step,
    grafting.cross_over,
    simplifications.simplify,
)


def outside(text):
    """Everything that no edit may touch, markers included: the lines and how many blocks."""
    kept, inside = [], False
    for line in text.split("\n"):
        if "EVOLVE-BLOCK-END" in line:
            inside = False
        if not inside:
            kept.append(line)
        if "EVOLVE-BLOCK-START" in line:
            inside = True
    return kept


def walked(name, seed, steps=6):
    """Apply random operators in a row; returns every program on the way."""
    rng = random.Random(seed)
    programs = [Program(POOL[name])]
    donors = [Program(SEED)]
    for _ in range(steps):
        operator = rng.choice(OPERATORS)
        change = operator(programs[-1], rng, Sources(PARTS, donors))
        if change:
            programs.append(change.program)
            donors.append(rng.choice(programs))
    return programs
