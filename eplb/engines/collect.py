"""Count the experts that a transformers model routes tokens to, without a serving engine.

Covered: models whose routers return the chosen experts, as transformers 5 writes them (checked
with 5.23.0: DeepSeek-V3, Qwen3-MoE, Mixtral, gpt-oss); each is read by a hook, so the counts are
the router's own. Not covered: routers that return logits only, which are refused by name, and
models that do not fit on one device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eplb.common import UserError
from eplb.engines.model import ExpertStatistics

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def find_routers(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """The routers of ``model`` by their layer, in ascending order."""
    routers: dict[int, torch.nn.Module] = {}
    for name, module in model.named_modules():
        if "router" not in type(module).__name__.lower() or not hasattr(module, "num_experts"):
            continue
        match = LAYER.search(name)
        if match is None or int(match[1]) in routers:
            raise UserError(f"cannot tell the layer of router {name}; this model is not supported")
        routers[int(match[1])] = module
    if not routers:
        raise UserError(f"{type(model).__name__} has no router with experts; give a MoE model")
    if len({router.num_experts for router in routers.values()}) > 1:
        raise UserError("the layers have different numbers of experts, which EPLB cannot place")
    return dict(sorted(routers.items()))


def chosen_experts(router: torch.nn.Module, output: object) -> torch.Tensor:
    """[tokens, top_k]: the expert ids in what ``router`` returned."""
    parts = output if isinstance(output, tuple) else (output,)
    for part in parts:
        if (
            isinstance(part, torch.Tensor)
            and not part.is_floating_point()
            and part.dtype != torch.bool
        ):
            return part.reshape(-1, part.shape[-1])
    raise UserError(
        f"{type(router).__name__} returns no expert ids, only scores; this model is not supported"
    )


@contextmanager
def counting(routers: dict[int, torch.nn.Module]) -> Iterator[np.ndarray]:
    """Yield [layers, experts] int64, to which every forward pass in the block adds its tokens."""
    num_experts = next(iter(routers.values())).num_experts
    counts = np.zeros((len(routers), num_experts), dtype=np.int64)

    def hook_for(row: int):
        def hook(router, inputs, output):
            ids = chosen_experts(router, output).flatten().cpu()
            counts[row] += torch.bincount(ids, minlength=num_experts).numpy()

        return hook

    hooks = [
        router.register_forward_hook(hook_for(row)) for row, router in enumerate(routers.values())
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


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
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"EXPERT_STATISTIC_ITER_RANGE={text} is no range such as 100-200")
    return int(match[1]), int(match[2])


@torch.inference_mode()
def collect(
    model: torch.nn.Module, inputs: Iterator[torch.Tensor], start: int = 0, stop: int | None = None
) -> ExpertStatistics:
    """Count the routed tokens of ``model`` in iterations ``start`` to ``stop`` of ``inputs``.

    inputs: [sequences, tokens] int64, an iteration each. Iterations before ``start`` are not
    run: without a cache they leave no trace in the later ones.
    """
    routers = find_routers(model)
    device = next(model.parameters()).device
    loads: list[np.ndarray] = []
    total = None if stop is None else stop - start
    with tqdm(total=total, desc="collecting", unit="iteration", disable=None) as bar:
        for iteration, token_ids in enumerate(inputs):
            if iteration < start:
                continue
            if iteration == stop:
                break
            with counting(routers) as counts:
                model(input_ids=token_ids.to(device), use_cache=False)
            loads.append(counts)
            bar.update()
    if not loads or (total is not None and len(loads) < total):
        raise UserError(
            f"the dataset ends before iteration {stop or start + 1}; give more text, a smaller "
            f"--batch_size or --max_length, or another EXPERT_STATISTIC_ITER_RANGE"
        )
    top_k = getattr(next(iter(routers.values())), "top_k", None)
    return ExpertStatistics(np.stack(loads), tuple(routers), start, num_ranks=1, top_k=top_k)


def load(name: str, device: str | None) -> tuple[torch.nn.Module, object]:
    """The model, without its language-model head, and its tokenizer, from a folder or the hub."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError("transformers is missing; run: pip install -e '.[collect]'") from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype="auto").to(device)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load model {name}: {error}") from error
    return model.eval(), tokenizer
