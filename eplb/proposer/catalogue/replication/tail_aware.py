"""Tail-aware replication: plan for an upper quantile of the load, not for its mean.

Like safety stock (Arrow, Harris and Marschak, Optimal inventory policy, 1951), every expert is
counted with a margin in proportion to its load's standard deviation. The deviation follows
Taylor's power law (Aggregation, variance and the mean, 1961): variance grows as a power of the
mean, in units of the row's mean load.
"""

import torch


def replicate_experts(weight, num_physical):
    """Replicate for the load plus a margin in proportion to its standard deviation."""
    rows, experts = weight.shape
    load = weight.float()
    mean = load.mean(dim=-1, keepdim=True).clamp(min=1e-30)
    deviation = mean * (load / mean) ** 0.75
    planned = load + 0.3 * deviation
    every_row = torch.arange(rows)
    logcnt = torch.ones(rows, experts, dtype=torch.int64)
    phy2log = torch.arange(num_physical).repeat(rows, 1)
    share = planned.clone()
    for replica in range(experts, num_physical):
        hottest = share.argmax(dim=-1)
        phy2log[:, replica] = hottest
        logcnt[every_row, hottest] += 1
        share[every_row, hottest] = planned[every_row, hottest] / logcnt[every_row, hottest]
    return phy2log, logcnt
