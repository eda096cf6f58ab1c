"""Which models propose programs, and whether they answer at all.

Covered: the choice from the keys at hand, and one short question to each model before a run.
Not covered: which of them is asked how often (ShinkaEvolve's bandit) and what they cost
(its price list).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from typing import Any

from shinka.env import load_shinka_dotenv
from shinka.llm import query
from shinka.llm.client import get_client_llm
from shinka.llm.kwargs import sample_model_kwargs
from shinka.llm.providers.model_resolver import resolve_model_backend
from shinka.model_availability import missing_env_vars_for_provider, validate_model_env_access

from eplb.common import UserError
from eplb.evolution.resolvers import OFFLINE_MODEL

# A strong model and a cheaper one of each provider, by names that ShinkaEvolve 0.0.7 has prices
# for: without a price the budget would not hold.
STRONG_MODELS = {
    "openai": ("gpt-5.5", "gpt-5.4-mini"),
    "anthropic": ("claude-opus-4-6", "claude-sonnet-4-6"),
    "google": ("gemini-3.1-pro-preview", "gemini-3.5-flash"),
    "deepseek": ("deepseek-reasoner",),
    "bedrock": ("us.anthropic.claude-sonnet-4-6-v1:0",),
}

ANSWER_SECONDS = 40.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Providers that ShinkaEvolve queries by another's function, or by one of another name.
QUERIED_AS = {
    "bedrock": "anthropic",
    "azure_openai": "openai",
    "openrouter": "openai",
    "google": "gemini",
}
# What an HTTP status of a refusal means; of other errors the name says more.
REFUSALS = dict.fromkeys((401, 403), "the key was refused")
REFUSALS[404] = "the server does not know this model"


def choose_models(requested: str | Sequence[str] | None, offline: bool) -> list[str]:
    """The models a run asks: the offline proposer, the requested ones, or those the keys open."""
    if offline:
        return [OFFLINE_MODEL]
    if requested is not None:
        return [requested] if isinstance(requested, str) else list(requested)
    load_shinka_dotenv()
    opened = [
        model
        for provider, models in STRONG_MODELS.items()
        if not missing_env_vars_for_provider(provider)
        for model in models
    ]
    return opened or [OFFLINE_MODEL]


def answering_models(
    models: Sequence[str],
    llm_kwargs: dict[str, Any],
    *,
    requested: bool,
    seconds: float = ANSWER_SECONDS,
) -> list[str]:
    """Ask every model one short question and return those that answer.

    requested: the user named the models, so each must answer
    seconds: after which a model counts as silent

    Raises `UserError` with the reason for every model that had to answer and did not. Models that
    were chosen from the keys may fail as long as one answers; a line says so.
    """
    try:
        validate_model_env_access(llm_models=models)
    except ValueError as error:
        raise UserError(f"models: {error}; name other models, or add offline=true") from error
    # A proxy cannot reach this machine's own servers: asking it would hang.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *LOOPBACK)))
    failures = silent_models(models, llm_kwargs, seconds)
    answering = [model for model in models if model not in failures]
    reasons = "; ".join(f"{model}: {reason}" for model, reason in failures.items())
    if failures and (requested or not answering):
        raise UserError(
            f"no answer from {reasons}. Put the key or the address right, "
            f"name other models (models=[…]), or add offline=true"
        )
    for model, reason in failures.items():
        print(f"left out {model}: {reason}")
    return answering


def silent_models(
    models: Sequence[str], llm_kwargs: dict[str, Any], seconds: float = ANSWER_SECONDS
) -> dict[str, str]:
    """Ask every model one short question: why each of those that do not answer is silent."""
    asked = [model for model in models if model != OFFLINE_MODEL]
    reasons = dict.fromkeys(asked, f"no answer within {seconds:.0f} s")

    def ask(model: str) -> None:
        reasons[model] = _why_silent(model, llm_kwargs, seconds)

    threads = [threading.Thread(target=ask, args=(model,), daemon=True) for model in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return {model: reason for model, reason in reasons.items() if reason}


def _why_silent(model: str, llm_kwargs: dict[str, Any], seconds: float) -> str:
    """What is wrong with the model's answer to one short question; empty where nothing is."""
    try:
        answer = _ask(model, llm_kwargs, seconds)
    except Exception as error:  # noqa: BLE001 - every client library has its own
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        address = resolve_model_backend(model).base_url
        kind = f"{type(error).__name__}{f' at {address}' if address else ''}"
        return f"{REFUSALS.get(status, kind)} ({' '.join(str(error).split())[:160]})"
    said = " ".join((answer.content or "").split())
    if re.search(r"\bOK(AY)?\b", said, re.IGNORECASE):
        return ""
    nothing = f"nothing{', after thinking up all that it may say' if answer.thought else ''}"
    return f"asked to reply with OK, it said {repr(said[:160]) if said else nothing}"


def _ask(model: str, llm_kwargs: dict[str, Any], seconds: float) -> query.QueryResult:
    """One question by ShinkaEvolve's own query function, without its twenty retries."""
    client, api_model, provider = get_client_llm(model)
    if hasattr(client, "with_options"):
        client = client.with_options(timeout=seconds, max_retries=0)
    kwargs = sample_model_kwargs(model_names=[model], **llm_kwargs)
    kwargs.pop("model_name")
    question = getattr(query, f"query_{QUERIED_AS.get(provider, provider)}").__wrapped__
    return question(client, api_model, "Reply with OK.", "You are brief.", [], None, **kwargs)
