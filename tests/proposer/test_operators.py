"""Every operator on every program: python -m pytest tests/proposer/test_operators.py."""

from __future__ import annotations

import ast
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb.proposer import grafting, mutations, simplifications
from eplb.proposer.mutations import Sources
from eplb.proposer.program import Program, meaning
from tests.proposer.programs import (
    FOREIGN,
    OPERATORS,
    OTHER_NAMES,
    PARTS,
    POOL,
    SEED,
    outside,
    walked,
)

few = settings(deadline=None, max_examples=20)


@few
@given(name=st.sampled_from(sorted(POOL)), seed=st.integers(0, 10**6))
def test_results_parse_and_nothing_outside_the_blocks_changes(name, seed):
    for program in walked(name, seed):
        ast.parse(program.text)
        assert outside(program.text) == outside(POOL[name])


@few
@given(name=st.sampled_from(sorted(POOL)), seed=st.integers(0, 10**6))
def test_same_stream_same_result(name, seed):
    once, again = walked(name, seed, 3), walked(name, seed, 3)
    assert [program.text for program in once] == [program.text for program in again]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_each_operator_finds_something_to_do_and_changes_the_code(operator):
    done = 0
    for seed in range(24):
        rng = random.Random(seed)
        program = walked("seed", seed, 2)[-1]
        change = operator(program, rng, Sources(PARTS, [Program(SEED)]))
        if change:
            done += meaning(change.program.tree) != meaning(program.tree)
            assert change.name.replace("_", "").isalnum() and change.description
    assert done > 2


def test_program_without_anything_to_act_on_gets_none():
    program = Program("# EVOLVE-BLOCK-START\nx = 0\n# EVOLVE-BLOCK-END\n")
    for operator in OPERATORS:
        assert operator(program, random.Random(0), Sources(PARTS, [program])) is None


def test_a_part_stands_in_under_the_programs_own_name():
    program = Program(OTHER_NAMES)
    (part,) = [part for part in PARTS if part.name == "snake"]
    assert part.fits(program.functions()["deal"], program.bound_names())
    changed = mutations.swap_in(program, "deal", part).program
    space: dict = {}
    exec(changed.text, space)
    import torch

    packs, _ = space["deal"](torch.tensor([[4.0, 3.0, 2.0, 1.0]]), 2)
    assert packs.tolist() == [[0, 1, 1, 0]]


def test_no_part_fits_a_function_with_other_results_or_defaults():
    functions = Program(OTHER_NAMES).functions()
    assert not any(part.fits(functions["replicate_experts"], set(functions)) for part in PARTS)
    for function in Program(FOREIGN).functions().values():
        assert not any(part.fits(function, set(functions)) for part in PARTS)


def test_a_part_that_calls_others_fits_only_where_they_are():
    (part,) = [part for part in PARTS if part.name == "place_globally"]
    assert part.calls() == {"replicate_experts", "balanced_packing"}
    seed = Program(SEED)
    function = seed.functions()["rebalance_experts_hierarchical"]
    assert part.fits(function, seed.bound_names())
    assert not part.fits(function, seed.bound_names() - {"balanced_packing"})


def test_graft_brings_what_the_function_needs():
    donor = Program(
        "import torch\n# EVOLVE-BLOCK-START\nimport math\nseen = {}\n\n\ndef helper(x):\n"
        "    return seen.get(x, math.pi)\n\n\ndef deal(weight, num_packs):\n"
        "    return helper(1), 2\n# EVOLVE-BLOCK-END\n"
    )
    grafted = grafting.graft(Program(OTHER_NAMES), donor, "deal")
    space: dict = {}
    exec(grafted.text, space)
    assert space["deal"](None, None)[0] == pytest.approx(3.14159, abs=1e-4)


def test_graft_is_refused_where_it_needs_what_stands_outside_the_donors_block():
    donor = Program(
        "CONSTANT = 1\n# EVOLVE-BLOCK-START\ndef deal(weight, num_packs):\n"
        "    return CONSTANT, 2\n# EVOLVE-BLOCK-END\n"
    )
    assert grafting.graft(Program(OTHER_NAMES), donor, "deal") is None


def simplified(text):
    """Simplify until nothing is left to simplify."""
    program = Program(text)
    for _ in range(40):
        change = simplifications.simplify(program, random.Random(0), Sources([], []))
        if change is None:
            return program.text
        program = change.program
    raise AssertionError("simplifying does not end")


def test_simplifying_leaves_the_essence():
    text = (
        "import torch\n# EVOLVE-BLOCK-START\nimport math\n\n\n"
        "def dead(x):\n    return math.pi\n\n\n"
        "def inner(a, b):\n    return a - b\n\n\n"
        "def run(a, b):\n"
        "    return inner(a.float().cpu(), b.gather(-1, a.argsort(dim=-1)))\n"
        "# EVOLVE-BLOCK-END\nstart = run\n"
    )
    expected = (
        "import torch\n# EVOLVE-BLOCK-START\n"
        "def inner(a, b):\n    return a - b\n"
        "def run(a, b):\n"
        "    return inner(a, torch.empty_like(b).scatter_(-1, a, b))\n"
        "# EVOLVE-BLOCK-END\nstart = run\n"
    )
    result = simplified(text)
    assert ast.dump(ast.parse(result)) == ast.dump(ast.parse(expected))


@pytest.mark.parametrize(
    "body",
    [
        "    x = p.sum(dim=0).float(q)\n    return x\n",  # converts by an argument
        "    y = p.gather(-1, q.argsort(dim=0))\n    return y\n",  # another dimension
    ],
)
def test_simplifying_keeps_its_hands_off(body):
    text = f"# EVOLVE-BLOCK-START\ndef run(p, q):\n{body}# EVOLVE-BLOCK-END\nrun\n"
    assert simplified(text) == text


def test_editing_outside_the_blocks_is_an_error():
    program = Program(SEED)
    with pytest.raises(ValueError, match="leaves the EVOLVE blocks"):
        program.edited([(0, 3, "'''")])
