"""Never answer."""


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    while True:
        pass
