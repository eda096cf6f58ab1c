"""Exponential average of the windows of a regime, with the decay that has foreseen them best.

Simple exponential smoothing (Brown, Exponential Smoothing for Predicting Demand, 1956), on each
expert's share of its layer. Several decays run side by side and the one with the smallest errors is
followed (Hannan, Approximation to Bayes risk in repeated play, 1957). A window that all of them
miss by far is taken for a change point (Page, Continuous inspection schemes, 1954).
"""

import torch

decayed_shares = {}


def forecast(weight):
    """Expect the exponential average that would have foreseen the last windows best."""
    total = weight.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    share = weight / total
    # The first decay expects the last window again, and is followed until another does better.
    decay = torch.tensor([0.0, 0.3, 0.6, 0.9]).view(-1, *[1] * weight.dim())
    none = torch.zeros_like(decay)
    windows, summed, error = decayed_shares.get(weight.shape, (none, none * share, none))
    missed = (summed / windows.clamp(min=1) - share).square().flatten(1).sum(dim=1)
    if missed.min() < 0.5 * share.square().sum():
        # Relative to the last window's, so that no single leap of the loads decides for long.
        relative = missed / missed[0].clamp(min=1e-30)
        error = 0.9 * error + relative.view_as(decay)
    else:
        windows, summed = none, none * share
    windows, summed = decay * windows + 1, decay * summed + share
    decayed_shares[weight.shape] = windows, summed, error
    best = int(error.argmin())
    return summed[best] / windows[best] * total
