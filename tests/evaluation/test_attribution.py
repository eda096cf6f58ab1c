"""Which part of a balancer is to blame: `pytest tests/evaluation/test_attribution.py`.

Each test breaks one part of an otherwise good balancer on purpose.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import initial
from eplb import reference
from eplb.evaluation.attribution import attribute
from eplb.placement import Deployment
from tests.evaluation.measured import (
    DEPLOYMENT,
    random_history,
    reference_scores,
    scores_of,
    steady_history,
)
from tests.strategies import replica_loads, seeds

SLOTS, GPUS = DEPLOYMENT.num_replicas, DEPLOYMENT.num_gpus


def seed_scores(history, deployment=DEPLOYMENT):
    d = deployment
    phy2logs = [
        initial.run_eplb(
            torch.from_numpy(load), d.num_replicas, d.num_groups, d.num_nodes, d.num_gpus
        )[0].numpy()
        for load in history.seen
    ]
    return scores_of(phy2logs, history, deployment)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_losses_add_up_to_what_is_missing(seed):
    history = random_history(seed)
    for run in (reference_scores(history), seed_scores(history)):
        parts = attribute(run)
        losses = parts.losses
        assert all(loss >= 0 for loss in losses.values())
        best = max(parts.placed, *parts.improved.values())
        assert sum(losses.values()) == pytest.approx(1 - parts.placed)
        assert losses["rest"] == pytest.approx(1 - best)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_reference_itself_loses_to_the_forecast_alone(seed):
    history = random_history(seed)
    run = reference_scores(history)
    parts = attribute(run)
    assert parts.losses["packing"] == pytest.approx(0)
    assert parts.losses["replication"] == pytest.approx(0)
    assert not parts.node_local or parts.losses["nodes"] == pytest.approx(0)
    assert parts.no_forecast == pytest.approx(parts.placed)
    assert parts.improved["nodes"] == pytest.approx(parts.improved["forecast"])


def test_a_steady_load_loses_nothing_to_the_forecast():
    history = steady_history(1)
    parts = attribute(reference_scores(history))
    assert parts.losses["forecast"] == 0


def test_a_bad_packing_is_told_from_bad_replicas():
    history = steady_history(2)
    sorted_experts = [np.sort(reference.place(load, SLOTS, GPUS), axis=1) for load in history.seen]
    losses = attribute(scores_of(sorted_experts, history)).losses
    assert losses["packing"] > 0.05
    assert losses["replication"] == pytest.approx(0)
    assert losses["forecast"] == 0


def test_bad_replicas_are_told_from_a_bad_packing():
    history = steady_history(3)
    layers, experts = history.windows.shape[1:]
    # All spare replicas go to the coldest expert, and then everything is packed well.
    phy2logs = []
    for load in history.seen:
        count = np.ones((layers, experts), dtype=np.int64)
        count[np.arange(layers), load.argmin(axis=1)] += SLOTS - experts
        expert = np.repeat(np.tile(np.arange(experts), layers), count.ravel()).reshape(layers, -1)
        gpu = reference.pack(replica_loads(load, count), GPUS)
        phy2logs.append(np.take_along_axis(expert, np.argsort(gpu, axis=1, kind="stable"), axis=1))
    losses = attribute(scores_of(phy2logs, history)).losses
    assert losses["replication"] > 0.05
    assert losses["packing"] == pytest.approx(0)


def test_nodes_are_blamed_where_one_group_is_hot():
    history = steady_history(4)
    hot = history.windows.copy()
    hot[:, :, :6] *= 50
    history = type(history)(hot[:, None])
    parts = attribute(seed_scores(history))
    assert parts.node_local
    assert parts.losses["nodes"] > 0.2
    assert max(parts.losses, key=parts.losses.__getitem__) == "nodes"
    # The same program where there is but one node to keep to has nothing to lose to it.
    one_node = Deployment(SLOTS, DEPLOYMENT.num_groups, 1, GPUS)
    assert not attribute(seed_scores(history, one_node)).node_local


def test_the_seed_replicates_and_packs_as_well_as_the_reference_within_its_nodes():
    history = steady_history(5)
    losses = attribute(seed_scores(history)).losses
    assert losses["packing"] == pytest.approx(0, abs=1e-6)
    assert losses["replication"] == pytest.approx(0, abs=1e-6)


def test_windows_without_tokens_are_left_out():
    history = random_history(6)
    windows = history.windows.copy()
    windows[1] = 0
    quiet = type(history)(windows[:, None])
    parts = attribute(reference_scores(quiet))
    figures = (parts.placed, parts.no_forecast, *parts.improved.values())
    assert all(0 < figure <= 1 for figure in figures)
    assert sum(parts.losses.values()) == pytest.approx(1 - parts.placed)
    # The second window is neither seen with profit nor judged: three of the four oracles count.
    oracle = reference_scores(quiet).balancedness_oracle
    assert np.isnan(oracle).tolist() == [False, True, False, False]
    assert parts.improved["forecast"] == pytest.approx(oracle[[0, 2, 3]].mean())
