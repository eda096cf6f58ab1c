"""Run another program."""

import subprocess

from honest import rebalance_experts


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    subprocess.run(["/bin/true"], check=True)
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
