"""Never answer, at no cost."""

import time


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    time.sleep(3600)
