"""Look for the next window in the frames of the callers and in everything alive."""

import gc
import sys

from honest import rebalance_experts


def bigger_than(value, cells):
    """Whether the value holds more numbers than the one window that was handed over."""
    try:
        return value.ndim == 3 and value.shape[0] > 1 and value.size >= 2 * cells
    except (AttributeError, TypeError):
        return False


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    cells = weight.numel()
    frame = sys._getframe()
    found = list(gc.get_objects())
    while frame is not None:
        found += frame.f_locals.values()
        frame = frame.f_back
    for value in found:
        if type(value).__module__ == "numpy" and bigger_than(value, cells):
            raise RuntimeError("stolen")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
