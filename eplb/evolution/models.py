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
from urllib.parse import urlparse

from shinka.env import load_shinka_dotenv
from shinka.llm import query
from shinka.llm.client import get_client_llm
from shinka.llm.kwargs import sample_model_kwargs
from shinka.llm.providers.model_resolver import resolve_model_backend
from shinka.model_availability import find_model_env_access_issues, missing_env_vars_for_provider

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
    _check_names(models)
    _spare_loopback_the_proxy(models)
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


def _check_names(models: Sequence[str]) -> None:
    try:
        issues = find_model_env_access_issues(llm_models=models)
    except ValueError as error:
        raise UserError(f"models: {error}") from error
    for issue in issues:
        missing = " and ".join(issue.missing_env_vars)
        raise UserError(f"{issue.model_name} needs {missing} to be set; or add offline=true")


def _spare_loopback_the_proxy(models: Sequence[str]) -> None:
    """A proxy cannot reach this machine's own servers: asking it would hang."""
    for model in models:
        host = urlparse(resolve_model_backend(model).base_url or "").hostname
        for name in ("NO_PROXY", "no_proxy"):
            excepted = os.environ.get(name, "")
            if host in ("localhost", "127.0.0.1", "::1") and host not in excepted.split(","):
                os.environ[name] = ",".join(filter(None, (excepted, host)))


def silent_models(
    models: Sequence[str], llm_kwargs: dict[str, Any], seconds: float = ANSWER_SECONDS
) -> dict[str, str]:
    """Ask every model one short question: why each of those that do not answer is silent."""
    models = [model for model in models if model != OFFLINE_MODEL]
    failures = {model: f"no answer within {seconds:.0f} s" for model in models}

    def ask(model: str) -> None:
        try:
            answer = _ask(model, llm_kwargs, seconds)
        except Exception as error:  # noqa: BLE001 - every client library has its own
            failures[model] = _reason(error, model)
            return
        if re.search(r"\bOK(AY)?\b", answer.content or "", re.IGNORECASE):
            failures.pop(model)
        else:
            failures[model] = f"asked to reply with OK, it said {_shown(answer)}"

    threads = [threading.Thread(target=ask, args=(model,), daemon=True) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return dict(failures)


def _shown(answer: query.QueryResult) -> str:
    if (answer.content or "").strip():
        return repr(" ".join(answer.content.split())[:160])
    return "nothing, after thinking up all that it may say" if answer.thought else "nothing"


def _ask(model: str, llm_kwargs: dict[str, Any], seconds: float) -> query.QueryResult:
    """One question by ShinkaEvolve's own query function, without its twenty retries."""
    client, api_model, provider = get_client_llm(model)
    if hasattr(client, "with_options"):
        client = client.with_options(timeout=seconds, max_retries=0)
    kwargs = sample_model_kwargs(model_names=[model], **llm_kwargs)
    kwargs.pop("model_name")
    names = {"bedrock": "anthropic", "azure_openai": "openai", "openrouter": "openai"}
    question = getattr(query, f"query_{ {**names, 'google': 'gemini'}.get(provider, provider) }")
    texts = ("Reply with OK.", "You are brief.")
    return question.__wrapped__(client, api_model, *texts, [], None, **kwargs)


def _reason(error: Exception, model: str) -> str:
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    detail = " ".join(str(error).split())[:160]
    if status in (401, 403):
        return f"the key was refused ({status}: {detail})"
    if status == 404:
        return f"the server does not know this model ({detail})"
    address = resolve_model_backend(model).base_url
    return f"{type(error).__name__}{f' at {address}' if address else ''}: {detail}"
