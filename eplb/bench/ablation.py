"""What each operator of the offline proposer is worth: `python -m eplb.bench.ablation`.

Covered: short evolutions with all operators, and with each left out in turn, over the same seeds.
Parents, inspirations, islands, prompts and patches are ShinkaEvolve's, with the settings of
`configs/`; programs are scored by one run on a small synthetic workload. Not covered: longer runs,
other workloads and start programs.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from shinka import database
from shinka.core.sampler import PromptSampler
from shinka.edit import apply_diff_patch, apply_full_patch
from tqdm import tqdm

from eplb.bench.command import markdown, measured, readable
from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    exit_on_user_error,
    positive_int,
    project_file,
    write_text,
)
from eplb.evaluation.measure import run_program
from eplb.evaluation.scores import SCORINGS, Figures, PlacementScores
from eplb.placement import Deployment
from eplb.proposer import grafting, propose
from eplb.proposer.answers import without_blank_lines
from eplb.sandbox.runner import Refused, Sandbox
from eplb.trace import History
from eplb.workload_model import PRESETS, generate

SMALL = {"layers": 12, "experts": 128, "windows": 6, "records_per_window": 2, "regime_window": 4}
DEPLOYMENT = Deployment(144, 8, 4, 16)
ISLANDS = OmegaConf.load(project_file("configs/database/eplb.yaml")).db_config
EDITS = OmegaConf.load(project_file("configs/evolution/eplb.yaml")).evo_config
PROMPT = "# System Instructions\n\n{}\n\n# Previous Messages\n\n[]\n\n# User Request\n\n{}\n"
START, END = "<!-- python -m eplb.bench.ablation -->\n", "<!-- end -->"


def switches() -> dict[str, contextlib.AbstractContextManager]:
    """What leaves each operator out, by its name; ``nothing`` leaves out nothing."""
    weights = propose.WEIGHTS
    off = {each.__name__: patch.dict(weights, {each: 0.0}) for each in weights}
    off["cross_over"] = patch.object(grafting, "cross_over", lambda *_: None)
    return {"nothing": contextlib.nullcontext()} | off


def evolve(seed: int, generations: int, score: Callable) -> tuple[float, list[str]]:
    """One evolution from the seed program: its best score, and the names of its proposals."""
    random.seed(seed)
    np.random.seed(seed)
    programs = database.ProgramDatabase(instantiate(ISLANDS, db_path=None), embedding_model="")
    sampler = PromptSampler(patch_types=EDITS.patch_types, patch_type_probs=EDITS.patch_type_probs)
    asked: Counter[str] = Counter()
    code, parent, names = project_file("initial.py").read_text(), None, []
    for generation in range(generations + 1):
        if generation:
            parent, archive, top, _ = programs.sample_with_fix_mode()
            system, user, kind = sampler.sample(parent, archive, top)
            prompt = PROMPT.format(system, user)
            asked[prompt] += 1
            try:
                answer = without_blank_lines(propose.answer(prompt, seed, asked[prompt]))
            except UserError:
                continue  # nothing left to propose of this parent: a generation lost
            names.append(re.search("<NAME>\n(.*)", answer)[1])
            apply = apply_diff_patch if kind == "diff" else apply_full_patch
            code, *_ = apply(patch_str=answer, original_str=parent.code, verbose=False)
        program = database.Program(str(generation), code, generation=generation, **score(code))
        program.parent_id = parent and parent.id
        programs.add(program)
        programs.check_scheduled_operations()
    return programs.get_best_program().combined_score, names


def run(seeds: int, generations: int = 40) -> tuple[dict[str, list[float]], list[str]]:
    """The best score of every seed by what is left out, and all proposals where nothing is."""
    trace = generate(replace(PRESETS["deepseek-v3"], **SMALL))
    history = History.of(trace)
    best, proposals = defaultdict(list), []
    with Sandbox() as sandbox, TemporaryDirectory() as folder:

        def score(code: str) -> dict[str, float | bool]:
            program = Path(folder, "program.py")
            program.write_text(code)
            try:
                run = run_program(sandbox, program, history.seen, DEPLOYMENT, time_seed=True)
            except Refused:
                return {"correct": False}
            scores = PlacementScores(run.placements, history, DEPLOYMENT)
            figures = Figures.of(scores, run.seconds, run.seed_seconds)
            return {"correct": True, "combined_score": SCORINGS["eplb"].formula(figures)}

        for seed in range(seeds):
            for name, switch in tqdm(switches().items(), f"seed {seed}", disable=None):
                # ShinkaEvolve prints whatever it draws.
                with switch, contextlib.redirect_stdout(io.StringIO()):
                    result, names = evolve(seed, generations, score)
                best[name].append(result)
                proposals += names * (name == "nothing")
    return best, proposals


def table(best: dict[str, list[float]], proposals: list[str]) -> str:
    """In Markdown, a row an operator: its share of proposals, and best scores without it."""
    seeds = [f"seed {seed}" for seed in range(len(best["nothing"]))]
    rows = [["left out", "share of proposals", *seeds, "mean", "change"]]
    for name, scores in best.items():
        share = np.mean([bool(re.search(f"(^|_and_){name}", each)) for each in proposals])
        change = np.mean(scores) - np.mean(best["nothing"])
        cells = [f"{value:.3f}" for value in (*scores, np.mean(scores))]
        rows.append([name, f"{share:.0%}", *cells, f"{change:+.3f}"])
    return markdown(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser("python -m eplb.bench.ablation", description=__doc__)
    parser.add_argument("--seeds", type=positive_int, default=5, help="default: 5")
    parser.add_argument("--page", type=readable, help="a page of docs/, to write the table into")
    args = parser.parse_args(arguments)
    page = args.page.read_text(encoding="utf-8") if args.page else ""
    text = f"\n{measured()}.\n\n{table(*run(args.seeds))}\n"
    print(text)
    if args.page:
        before, _, rest = page.partition(START)
        write_text(args.page, before + START + text + END + rest.partition(END)[2])
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)
