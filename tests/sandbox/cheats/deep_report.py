"""Report a failure that no parser survives."""

import os
import sys


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    os.write(sys._getframe(1).f_locals["done"], b"F" + b"[" * 8000 + b"9" * 8000)
    os._exit(0)
