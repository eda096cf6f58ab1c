"""Record which experts a Mixture-of-Experts model routes a dataset's tokens to, on CPU or GPU.

EXPERT_STATISTIC_PATH=./expert_statistic EXPERT_STATISTIC_ITER_RANGE=100-200 \\
    python collect_expert_statistics.py --model ./model --dataset prompts.jsonl

Writes the folder that TensorRT-LLM writes under the same two environment variables.
"""

from __future__ import annotations

import os
from pathlib import Path

from eplb.common import ArgumentParser, UserError, exit_on_user_error, path_argument, positive_int
from eplb.engines import collect, tensorrt_llm
from eplb.planning import command


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Writes to the folder EXPERT_STATISTIC_PATH, for the iterations "
        "EXPERT_STATISTIC_ITER_RANGE (100-200 is 100 to 199; unset is all)."
    )
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face folder or id of a MoE model")
    add("--dataset", type=path_argument, required=True, help="text, or .jsonl with the key 'text'")
    add("--batch_size", type=positive_int, default=8, help="sequences per iteration (default: 8)")
    add("--max_length", type=positive_int, default=512, help="tokens per sequence (default: 512)")
    add("--device", help="default: cuda if there is one, else cpu")
    return parser


def main() -> int:
    options = parser().parse_args()
    folder = os.environ.get("EXPERT_STATISTIC_PATH")
    if not folder:
        raise UserError("EXPERT_STATISTIC_PATH is not set; set it to the folder to write")
    start, stop = collect.iteration_range(os.environ.get("EXPERT_STATISTIC_ITER_RANGE"))
    tensorrt_llm.check_vacant(Path(folder))
    texts = list(collect.read_texts(options.dataset))
    model, tokenizer = collect.load(options.model, options.device)
    inputs = collect.batches(tokenizer, texts, options.batch_size, options.max_length)
    statistics = collect.collect(model, inputs, start, stop)
    tensorrt_llm.write_statistics(Path(folder), statistics)
    iterations, layers, experts = statistics.loads.shape
    written = f"wrote {folder}: {iterations} iterations, {layers} layers, {experts} experts"
    return command.tell(written, statistics.notes)


if __name__ == "__main__":
    exit_on_user_error(main)
