"""Count the experts that a transformers model routes tokens to, without a serving engine.

Covered: models whose expert modules are handed the chosen experts' ids, as nearly all of
transformers 5 are (tried with 5.24.0: DeepSeek-V3, Qwen3-MoE, Mixtral, gpt-oss, LongCat-Flash,
HunYuan); a hook on each reads them, so the counts are the router's own. Not covered: modules that
are handed scores or masks, which are refused by name, and models that do not fit on one device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eplb.common import UserError
from eplb.engines.model import ExpertStatistics
from eplb.trace import TraceHeader

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def find_experts(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """The modules that hold the routed experts of ``model`` by their layer, in ascending order."""
    found: dict[int, torch.nn.Module] = {}
    for name, module in model.named_modules():
        if not type(module).__name__.endswith("Experts") or not _num_experts(module):
            continue
        match = LAYER.search(name)
        if match is None or int(match[1]) in found:
            raise UserError(f"cannot tell the layer of {name}; this model is not supported")
        found[int(match[1])] = module
    if not found:
        raise UserError(
            f"{type(model).__name__} has no module of experts that this command knows; give an "
            f"MoE model of transformers 5, or record with a serving engine"
        )
    if len({_num_experts(module) for module in found.values()}) > 1:
        raise UserError("the layers have different numbers of experts, which EPLB cannot place")
    return dict(sorted(found.items()))


def _num_experts(module: torch.nn.Module) -> int:
    """Experts with weights: LongCat's zero experts have ids too, behind these, and no place."""
    return getattr(module, "num_routed_experts", getattr(module, "num_experts", 0))


def chosen_experts(module: torch.nn.Module, inputs: tuple) -> torch.Tensor:
    """[tokens, top_k]: the expert ids in what ``module`` is called with."""
    ids = inputs[1] if len(inputs) > 1 else None
    if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(
            f"{type(module).__name__} is not given expert ids, only scores or a mask; this model "
            f"is not supported, record it with a serving engine"
        )
    return ids.reshape(-1, ids.shape[-1])


@contextmanager
def counting(model: torch.nn.Module) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The layers with experts, and [layers, experts] int64 that forward passes add tokens to."""
    modules = find_experts(model)
    num_experts = _num_experts(next(iter(modules.values())))
    counts = np.zeros((len(modules), num_experts), dtype=np.int64)

    def count(module, inputs, row):
        ids = chosen_experts(module, inputs).flatten().cpu()
        counts[row] += torch.bincount(ids, minlength=num_experts).numpy()[:num_experts]

    with ExitStack() as hooks:
        for row, module in enumerate(modules.values()):
            hook = module.register_forward_pre_hook(partial(count, row=row))
            hooks.callback(hook.remove)
        yield tuple(modules), counts


def read_texts(path: Path) -> Iterator[str]:
    """The documents of a text file (one) or of JSON lines (their ``text``, one a line)."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the dataset {path} ({error}); give text or .jsonl") from error
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not an object with the key 'text'") from error


def batches(
    tokenizer, texts: Iterator[str], batch_size: int, length: int
) -> Iterator[torch.Tensor]:
    """[sequences, tokens] int64: all texts in a row, cut into sequences of ``length`` tokens.

    Sequences are full so that no padding is counted; what is left at the end is one short sequence.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rest: list[int] = []
    for text in texts:
        rest += tokenizer(text)["input_ids"] + end
        while len(rest) >= batch_size * length:
            yield torch.tensor(rest[: batch_size * length]).view(batch_size, length)
            del rest[: batch_size * length]
    full = len(rest) // length * length
    if full:
        yield torch.tensor(rest[:full]).view(-1, length)
    if rest[full:]:
        yield torch.tensor([rest[full:]])


def iteration_range(text: str | None) -> tuple[int, int | None]:
    """``EXPERT_STATISTIC_ITER_RANGE``: "100-200" is 100 up to, but without, 200; unset is all."""
    if not text:
        return 0, None
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    start, stop = map(int, match.groups()) if match else (0, 0)
    if start >= stop:
        raise UserError(f"EXPERT_STATISTIC_ITER_RANGE={text} is no range such as 100-200")
    return start, stop


@torch.inference_mode()
def collect(
    model: torch.nn.Module, inputs: Iterator[torch.Tensor], start: int = 0, stop: int | None = None
) -> ExpertStatistics:
    """Count the routed tokens of ``model`` in iterations ``start`` to ``stop`` of ``inputs``.

    inputs: [sequences, tokens] int64, an iteration each. Iterations before ``start`` are not
    run: without a cache they leave no trace in the later ones. Where the inputs end before
    ``stop``, what was counted is returned with a note.
    """
    device = next(model.parameters()).device
    loads: list[np.ndarray] = []
    iterations = tokens = 0
    bar = tqdm(total=stop and stop - start, desc="collecting", unit="iteration", disable=None)
    with counting(model) as (layers, counts), bar:
        for token_ids in inputs:
            if iterations == stop:
                break
            iterations, tokens = iterations + 1, tokens + token_ids.numel()
            if iterations <= start:
                continue
            counts[:] = 0
            model(input_ids=token_ids.to(device), use_cache=False)
            loads.append(counts.copy())
            bar.update()
    notes, last = (), stop or start + 1
    if iterations < last:
        notes = (
            f"the dataset ends after {iterations} iterations of {tokens} tokens; iterations up to "
            f"{last} need about {last * tokens // max(iterations, 1)}: give more text, or smaller "
            f"--batch_size or --max_length",
        )
    if not loads:
        raise UserError(*(notes or ("the dataset holds no text",)))
    top_k = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    header = TraceHeader(top_k=top_k if isinstance(top_k, int) else None)
    return ExpertStatistics(np.stack(loads), layers, start, header, notes=notes)


def load(name: str, device: str | None) -> tuple[torch.nn.Module, object]:
    """The model, without its language-model head, and its tokenizer, from a folder or the hub."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError("transformers is missing; run: pip install -e '.[collect]'") from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        words = str(error).splitlines()[0]
        raise UserError(f"--device {device} does not work here ({words}); try cpu") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype="auto").to(device)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load model {name}: {error}") from error
    return model.eval(), tokenizer
