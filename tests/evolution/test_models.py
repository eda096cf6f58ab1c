"""Which models are asked, and what happens when they do not answer.

Run it with `pytest tests/evolution/test_models.py`.
"""

from __future__ import annotations

import socket
import threading
import time

import pytest
from shinka.llm.providers.pricing import get_model_prices
from shinka.model_availability import PROVIDER_ENV_REQUIREMENTS

from eplb.common import UserError
from eplb.evolution.models import OFFLINE_MODEL, STRONG_MODELS, answering_models, choose_models
from tests.evolution import model_server
from tests.evolution.model_server import KEY, ModelServer

LLM_KWARGS = {"temperatures": [1.0], "max_tokens": 64, "reasoning_efforts": ["low"]}


@pytest.fixture(autouse=True)
def key_of_the_server(no_keys, monkeypatch):
    monkeypatch.setenv("LOCAL_OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with ModelServer() as server:
        yield server


def ask(*models, requested=True, seconds=20.0):
    return answering_models(models, LLM_KWARGS, requested=requested, seconds=seconds)


def test_without_a_key_the_offline_proposer_is_asked():
    assert choose_models(None, offline=False) == [OFFLINE_MODEL]


def test_keys_open_their_providers_models(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "k")
    expected = [*STRONG_MODELS["openai"], *STRONG_MODELS["deepseek"]]
    assert choose_models(None, offline=False) == expected
    assert choose_models(None, offline=True) == [OFFLINE_MODEL]
    assert choose_models("gpt-5.4", offline=False) == ["gpt-5.4"]


def test_a_dotenv_file_is_read(monkeypatch, tmp_path):
    # Registered first, so that what is read from the file is forgotten after the test.
    monkeypatch.setenv("GEMINI_API_KEY", "")
    (tmp_path / ".env").write_text("GEMINI_API_KEY=k\n")
    assert choose_models(None, offline=False) == list(STRONG_MODELS["google"])


@pytest.mark.parametrize("model", [model for models in STRONG_MODELS.values() for model in models])
def test_shinka_knows_the_price_of_every_model(model):
    """Without a price ShinkaEvolve counts nothing and the budget never ends a run."""
    prices = get_model_prices(model)
    assert prices["input_price"] > 0 and prices["output_price"] > 0


def test_a_server_that_answers(server):
    assert ask(server.model) == [server.model]
    assert len(server.prompts) == 1


@pytest.mark.parametrize(
    "content, thought, words",
    [
        ("", None, "it said nothing;"),
        ("   ", None, "it said nothing;"),
        ("", "Reply with OK? Let me look at it", "said nothing, after thinking"),
        ("I took a look at your brokers.", None, "it said 'I took a look at your brokers.'"),
    ],
)
def test_an_answer_that_is_none(server, monkeypatch, content, thought, words):
    monkeypatch.setattr(model_server, "answer", lambda system, user: content)
    server.thinks = thought
    with pytest.raises(UserError, match=f"asked to reply with OK.*{words[:-1]}"):
        ask(server.model)


def test_a_wrong_key_is_said_at_once(server, monkeypatch):
    monkeypatch.setenv("LOCAL_OPENAI_API_KEY", "wrong")
    with pytest.raises(UserError, match="the key was refused .*401.*offline=true"):
        ask(server.model)
    assert server.refused == 1


def test_a_key_variable_of_its_own(server, monkeypatch):
    model = f"{server.model}?api_key_env=MY_KEY"
    with pytest.raises(UserError, match="MY_KEY"):
        ask(model)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("LOCAL_OPENAI_API_KEY")
    assert ask(model) == [model]


def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        model = f"local/x@http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(UserError, match="Connection"):
            ask(model)


def test_a_server_that_never_answers():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        model = f"local/x@http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        begin = time.monotonic()
        with pytest.raises(UserError, match="no answer from local/x"):
            ask(model, seconds=1.0)
        assert time.monotonic() - begin < 30


def test_models_chosen_by_key_may_fail_as_long_as_one_answers(server, capsys):
    broken = "local/x@http://127.0.0.1:1/v1"
    assert ask(broken, server.model, requested=False) == [server.model]
    assert f"left out {broken}: " in capsys.readouterr().out
    with pytest.raises(UserError, match="offline=true"):
        ask(broken, requested=False)
    with pytest.raises(UserError):
        ask(broken, server.model, requested=True)


def test_a_proxy_is_not_asked_for_this_machine(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert ask(server.model) == [server.model]


def test_names_and_keys_are_checked_first():
    with pytest.raises(UserError, match="nosuch"):
        ask("nosuch")
    with pytest.raises(UserError, match="gpt-5.4.*missing OPENAI_API_KEY.*offline=true"):
        ask("gpt-5.4")


def test_every_provider_is_asked_by_shinkas_own_function(monkeypatch):
    """The query functions keep an undecorated form, and take the arguments they are given."""
    for names in PROVIDER_ENV_REQUIREMENTS.values():
        for name in names:
            monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    monkeypatch.delenv("GOOGLE_GENAI_USE_VERTEXAI")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    models = [models[0] for models in STRONG_MODELS.values()]
    with pytest.raises(UserError) as failure:
        ask(*models, seconds=30.0)
    for model in models:
        assert model in str(failure.value)
    assert "Error" in str(failure.value)
    for word in ("TypeError", "AttributeError", "ValueError"):
        assert word not in str(failure.value)
    assert threading.active_count() < 20
