"""End by a signal that has no name."""

import os


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    os.kill(os.getpid(), 40)
