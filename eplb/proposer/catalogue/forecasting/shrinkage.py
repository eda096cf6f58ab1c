"""Shrinkage of the last window towards the long-run mean.

Shrinking a noisy estimate towards a steady one lowers its expected error (James and Stein,
Estimation with quadratic loss, 1961); in load forecasting it stands for regression to the mean.
"""

long_run_total = {}


def forecast(weight):
    """Expect the last window, shrunk towards the mean of all windows."""
    total = weight.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    share = weight / total
    windows, summed = long_run_total.get(weight.shape, (0, 0.0))
    windows, summed = windows + 1, summed + share
    long_run_total[weight.shape] = windows, summed
    return (share + 0.3 * (summed / windows - share)) * total
