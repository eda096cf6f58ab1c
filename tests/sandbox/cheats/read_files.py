"""Open the trace, the results, the evaluator and what other programs left behind."""

from pathlib import Path

from honest import rebalance_experts

# The test puts the paths of the trace, the results and the evaluator here.
TARGETS = []


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    for target in TARGETS:
        try:
            Path(target).read_bytes()
        except OSError:
            continue
        raise RuntimeError(f"stolen: {target}")
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
