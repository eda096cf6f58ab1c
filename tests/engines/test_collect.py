"""Recording real architectures with random weights: the counts are the router's own choices.

Run it with `pytest tests/engines/test_collect.py`.
"""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch

import collect_expert_statistics
from eplb.common import UserError
from eplb.engines import collect, registry

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
}


def config_of(architecture: str):
    if architecture == "DeepSeek-V3":
        return transformers.DeepseekV3Config(
            **{**SIZES, "num_key_value_heads": 4},
            n_routed_experts=8,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
            intermediate_size=48,
            moe_intermediate_size=16,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
        )
    if architecture == "Qwen3-MoE":
        return transformers.Qwen3MoeConfig(
            **SIZES, num_experts=8, moe_intermediate_size=16, intermediate_size=48, head_dim=8
        )
    if architecture == "LongCat-Flash":
        sizes = {key: value for key, value in SIZES.items() if key != "num_hidden_layers"}
        return transformers.LongcatFlashConfig(
            **{**sizes, "num_key_value_heads": 4},
            num_layers=3,
            n_routed_experts=8,
            zero_expert_num=4,
            ffn_hidden_size=48,
            expert_ffn_hidden_size=16,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            head_dim=8,
            v_head_dim=8,
        )
    if architecture == "HunYuan":
        return transformers.HunYuanMoEV1Config(
            **SIZES, num_experts=8, intermediate_size=16, head_dim=8, eod_token_id=1
        )
    if architecture == "Mixtral":
        return transformers.MixtralConfig(**SIZES, num_local_experts=8, intermediate_size=16)
    return transformers.GptOssConfig(**SIZES, num_local_experts=8, intermediate_size=16, head_dim=8)


ARCHITECTURES = ["DeepSeek-V3", "Qwen3-MoE", "Mixtral", "gpt-oss", "LongCat-Flash", "HunYuan"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> torch.nn.Module:
    torch.manual_seed(0)
    made = transformers.AutoModel.from_config(config_of(request.param)).eval()
    for name, weight in made.named_parameters():
        if "gate.weight" in name or "router.weight" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return made


def token_ids(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def routers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    kinds = re.compile("TopK?kRouter|TopkRouter|TopKRouter|HunYuanMoEV1Gate")
    return [module for module in model.modules() if kinds.search(type(module).__name__)]


def test_counts_are_the_routers_own_choices(model):
    """Capture what goes into each router, ask the router again, and count by hand.

    LongCat's experts 8 to 11 are zero experts: they have no weights and no place.
    """
    inputs = [token_ids(seed, 2, 24) for seed in range(3)]
    statistics = collect.collect(model, iter(inputs))
    routers = routers_of(model)
    captured = [[] for _ in routers]
    for router, seen in zip(routers, captured, strict=True):
        router.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
    with torch.inference_mode():
        for ids in inputs:
            model(input_ids=ids, use_cache=False)
        for row, (router, seen) in enumerate(zip(routers, captured, strict=True)):
            for iteration, hidden in enumerate([*seen]):
                _, _, chosen = router(hidden)
                by_hand = [int((chosen == expert).sum()) for expert in range(8)]
                assert statistics.loads[iteration, row].tolist() == by_hand
    assert len(routers) == len(statistics.layers) and statistics.header.top_k == 2
    tokens = statistics.loads.sum(axis=2)
    assert (tokens < 96).any() if "Longcat" in type(model).__name__ else (tokens == 96).all()
    assert (statistics.loads.max(axis=2) > statistics.loads.min(axis=2)).all()


def test_layers_keep_their_numbers(model):
    dense_first = type(model).__name__.startswith("Deepseek")
    assert tuple(collect.find_experts(model)) == ((1, 2) if dense_first else (0, 1, 2))


def test_iterations_in_the_range_and_no_others(model):
    inputs = [token_ids(seed, 1, 8) for seed in range(5)]
    everything = collect.collect(model, iter(inputs))
    some = collect.collect(model, iter(inputs), 1, 4)
    assert some.iterations == range(1, 4)
    assert np.array_equal(some.loads, everything.loads[1:4])
    short = collect.collect(model, iter(inputs), 3, 9)
    assert np.array_equal(short.loads, everything.loads[3:])
    assert (
        "ends after 5 iterations of 40 tokens; iterations up to 9 need about 72" in short.notes[0]
    )
    with pytest.raises(UserError, match="ends after 5 iterations of 40 tokens"):
        collect.collect(model, iter(inputs), 7, 9)


def test_what_is_not_supported_is_named():
    with pytest.raises(UserError, match="Linear has no module of experts"):
        collect.find_experts(torch.nn.Linear(2, 2))
    for inputs in ((torch.ones(3, 2),), (torch.ones(3, 2), torch.ones(3, 2))):
        with pytest.raises(UserError, match="Linear is not given expert ids"):
            collect.chosen_experts(torch.nn.Linear(2, 2), inputs)
    with pytest.raises(UserError, match="--device cuda:99 does not work here .*; try cpu"):
        collect.load("nowhere", "cuda:99")


def test_iteration_range():
    assert collect.iteration_range("100-200") == (100, 200)
    assert collect.iteration_range(None) == (0, None)
    for wrong in ("100", "200-100", "5-5", "a-b"):
        with pytest.raises(UserError, match="no range such as 100-200"):
            collect.iteration_range(wrong)


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["<eos>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>"
    )


def test_batches_are_the_texts_in_a_row(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a b c"}\n\n{"text": "d e f g h"}\n{"text": "a"}\n')
    made = list(collect.batches(word_tokenizer(), collect.read_texts(path), 2, 2))
    assert [batch.tolist() for batch in made] == [
        [[2, 3], [4, 0]],
        [[5, 6], [7, 8]],
        [[9, 0], [2, 0]],
    ]
    (last,) = collect.batches(word_tokenizer(), iter(["a b c"]), 4, 16)
    assert last.tolist() == [[2, 3, 4, 0]]
    path.write_text('{"prompt": "a"}')
    with pytest.raises(UserError, match="line 1: not an object with the key 'text'"):
        list(collect.read_texts(path))


def test_command_asks_for_the_folder_first(monkeypatch):
    monkeypatch.delenv("EXPERT_STATISTIC_PATH", raising=False)
    monkeypatch.setattr(sys, "argv", ["collect", "--model", "nowhere", "--dataset", "nowhere"])
    with pytest.raises(UserError, match="EXPERT_STATISTIC_PATH is not set"):
        collect_expert_statistics.main()


def test_command_writes_the_engines_folder(monkeypatch, tmp_path):
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config_of("Mixtral")).save_pretrained(
        tmp_path / "model"
    )
    word_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("a b c d e f g h " * 40)
    monkeypatch.setenv("EXPERT_STATISTIC_PATH", str(tmp_path / "dump"))
    monkeypatch.setenv("EXPERT_STATISTIC_ITER_RANGE", "3-7")
    files = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "text.txt")]
    sizes = ["--batch_size", "2", "--max_length", "16", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["collect", *files, *sizes])
    assert collect_expert_statistics.main() == 0
    meta = json.loads((tmp_path / "dump/meta_info.json").read_text())
    assert meta == {"num_experts": 8, "num_experts_per_token": 2}
    statistics = registry.read_statistics(tmp_path / "dump")
    assert statistics.iterations == range(3, 7) and statistics.layers == (0, 1, 2)
    assert (statistics.loads.sum(axis=2) == 2 * 16 * 2).all()
    with pytest.raises(UserError, match="already holds statistics"):
        collect_expert_statistics.main()
