"""Score, evolve and deploy expert-parallelism load balancers. The rooms, lowest first:

    common, placement, trace, jsonstream, loadstats, loads, minmax, reference     the ground
    sandbox          runs untrusted programs in processes of their own, and times them
    workload_model   draws synthetic traffic
    throughput       step times, dispatch rules, the price of a move: tokens per second kept
    evaluation       measures a program on a trace: scores, feedback, results, plots
    evolution        runs ShinkaEvolve on the balancer: models, progress, resuming, confirmation
    proposer         proposes programs without a language model
    report           a page about a run
    engines          serving engines' files in and out, and the plug-in for vLLM
    planning         plans placements from recordings, measures them, and says what to deploy
    bench            compares programs, and measures this project itself

`tests/test_walls.py` keeps the arrows one way.
"""

import sys

from eplb import common

# Here, since every command imports this first.
sys.excepthook = common.tell_missing_packages
