"""Exponential average of the windows.

Simple exponential smoothing (Brown, Exponential Smoothing for Predicting Demand, 1956), on each
expert's share of its layer, so that a busier window does not count for more.
"""

exponential_average = {}


def forecast(weight):
    """Expect an exponential average of the windows seen so far."""
    total = weight.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    share = weight / total
    before = exponential_average.get(weight.shape, share)
    average = before + 0.7 * (share - before)
    exponential_average[weight.shape] = average
    return average * total
