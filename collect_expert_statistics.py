"""Record which experts a Mixture-of-Experts model routes a dataset's tokens to, on CPU or GPU.

EXPERT_STATISTIC_PATH=./expert_statistic EXPERT_STATISTIC_ITER_RANGE=100-200 \\
    python collect_expert_statistics.py --model ./model --dataset prompts.jsonl

Writes the folder that TensorRT-LLM writes under the same two environment variables.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from eplb.common import DONE, ArgumentParser, UserError, exit_on_user_error
from eplb.engines import collect, tensorrt_llm


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(
        description="Writes to the folder EXPERT_STATISTIC_PATH, for the iterations "
        "EXPERT_STATISTIC_ITER_RANGE (100-200 is 100 to 199; unset is all)."
    )
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face folder or id of a MoE model")
    add("--dataset", type=Path, required=True, help="text, or .jsonl with the key 'text'")
    add("--batch_size", type=int, default=8, help="sequences per iteration (default: 8)")
    add("--max_length", type=int, default=512, help="tokens per sequence (default: 512)")
    add("--device", help="default: cuda if there is one, else cpu")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    folder = os.environ.get("EXPERT_STATISTIC_PATH")
    if not folder:
        raise UserError("EXPERT_STATISTIC_PATH is not set; set it to the folder to write")
    if min(arguments.batch_size, arguments.max_length) < 1:
        raise UserError("--batch_size and --max_length must be at least 1")
    start, stop = collect.iteration_range(os.environ.get("EXPERT_STATISTIC_ITER_RANGE"))
    tensorrt_llm.check_vacant(Path(folder))
    texts = list(collect.read_texts(arguments.dataset))
    model, tokenizer = collect.load(arguments.model, arguments.device)
    inputs = collect.batches(tokenizer, texts, arguments.batch_size, arguments.max_length)
    statistics = collect.collect(model, inputs, start, stop)
    tensorrt_llm.write_statistics(Path(folder), statistics)
    for note in statistics.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(
        f"wrote {folder}: {len(statistics.loads)} iterations, {len(statistics.layers)} layers, "
        f"{statistics.num_experts} experts"
    )
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)
