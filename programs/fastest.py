"""Free placement in well under a millisecond: greedy replication and LPT packing without argsort.

Idea. The policy is the one that TensorRT-LLM and DeepSeek's global mode share: every spare slot
goes to the expert with the hottest replica, then the replicas go heaviest first to the lightest
GPU. All layers are solved at once by sorting numbers that carry their own labels: a load is a
float64 of 52 mantissa bits, and its lowest ones hold the expert's id. Sorting values is several
times as fast as sorting indices, and no gather has to follow. A label changes a load by less than
one part in a billion for any practical shape, far below the noise of a token count.

- Replication. Greedy replication picks the largest quotients load / k, k = 1, 2, …, as the
  D'Hondt rule of elections does. With K spare slots the expert of rank r can win k of them only if
  (r + 1) · k <= K, so K · ln K candidates per layer are all that must be sorted.
- Packing. In each round every GPU receives one replica, the lightest GPU the heaviest of the round.
  It matches replica-by-replica LPT in balancedness (tests/test_programs.py compares them).

Lineage: composed by hand from published ideas and not found by an evolution run. The policy is that
of https://github.com/deepseek-ai/EPLB (global) and of TensorRT-LLM's moeLoadBalancer; ids in the
low bits of a sort key are a classic of radix and GPU sorting.

Figures, held-out (`python -m eplb.leaderboard`, seed 2026, no constant was chosen on it):
balancedness 0.7733 on DeepSeek-V3 EP32, 0.9541 without drift, at 157 to 178 times the seed's speed.

Not covered: nodes and groups are ignored, and the next window is assumed to look like this one.
"""

from functools import lru_cache

import numpy as np
import torch


# EVOLVE-BLOCK-START
@lru_cache(maxsize=8)
def quotient_candidates(experts, spare):
    """List what greedy replication can choose from: position and replicas so far, [candidates].

    Positions are those of the hottest min(experts, spare) experts in ascending order.
    """
    hot = min(experts, spare)
    replicas = [np.arange(1, spare // rank + 1) for rank in range(1, hot + 1)]
    position = np.repeat(np.arange(hot - 1, -1, -1), [len(each) for each in replicas])
    return position, np.concatenate(replicas)


def put_labels(value, label, bits):
    """Replace the lowest ``bits`` bits of positive float64 values by integer labels, in place."""
    number = value.view(np.int64)
    number &= -(1 << bits)
    number |= label


def labels(value, bits):
    """Read the labels back."""
    return value.view(np.int64) & ((1 << bits) - 1)


def replicate(load, spare, label_bits):
    """Give each spare replica to the expert whose replicas are the hottest, all at once.

    load: [rows, experts], ascending, with labels of ``label_bits`` bits whose replica number is
    zero; changed in place to the load of one replica
    spare: replicas per row beyond one an expert

    Returns the loads of the spare replicas [rows, spare], labelled with the number of the replica
    as well, and the replicas [rows, hot] of the last ``hot`` experts; all others have one.
    """
    rows, experts = load.shape
    hot = min(experts, spare)
    rank, replicas = quotient_candidates(experts, spare)
    bits = len(rank).bit_length()
    hottest = load[:, -hot:]
    quotient = hottest.take(rank, axis=1)
    quotient /= replicas
    put_labels(quotient, np.arange(len(rank)), bits)
    quotient.sort(axis=1)
    chosen = labels(quotient[:, -spare:], bits)

    cell = rank[chosen] + np.arange(0, rows * hot, hot)[:, None]
    count = 1 + np.bincount(cell.ravel(), minlength=rows * hot).reshape(rows, hot)
    label = labels(hottest, label_bits)
    hottest /= count
    put_labels(hottest, label, label_bits)
    extra = hottest.ravel()[cell]
    extra.view(np.int64)[...] |= replicas[chosen]
    return extra, count


def pack_in_rounds(load, num_packs):
    """Pack items to packs of equal size; in each round every pack receives one item.

    load: [rows, items] float64 in ascending order; num_packs divides the items

    Returns [rows, items] int64, the place of each item: pack * capacity + position in the pack.
    """
    rows, items = load.shape
    capacity = items // num_packs
    bits = (num_packs - 1).bit_length()
    place = np.empty((rows, items), dtype=np.int64)
    pack = np.arange(num_packs)
    total = np.zeros((rows, num_packs))
    for position in range(capacity):
        last = items - position * num_packs
        this_round = slice(last - num_packs, last)
        # The packs stand in ascending order too, and the lightest takes the heaviest item.
        place[:, this_round] = (pack * capacity + position)[..., ::-1]
        total += load[:, this_round][:, ::-1]
        put_labels(total, pack, bits)
        total.sort(axis=1)
        pack = labels(total, bits)
    return place


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds.

    weight: [layers, experts], tokens routed to each expert in the last window
    num_replicas: slots per layer; GPU g holds slots g*S to (g+1)*S-1, S = num_replicas / num_gpus

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy``
    [layers, experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], the
    replicas of each expert. All int64.
    """
    layers, experts = weight.shape
    spare = num_replicas - experts
    number_bits = spare.bit_length()
    bits = number_bits + (experts - 1).bit_length()

    # A load of zero has no mantissa to carry a label.
    load = np.maximum(weight.to("cpu", torch.float64).numpy(), 1e-30)
    put_labels(load, np.arange(experts) << number_bits, bits)
    load.sort(axis=1)
    logcnt = torch.ones(layers, experts, dtype=torch.int64)
    if spare:
        extra, count = replicate(load, spare, bits)
        hottest = labels(load[:, -count.shape[1] :], bits) >> number_bits
        logcnt.scatter_(1, torch.from_numpy(hottest), torch.from_numpy(count))
        load = np.concatenate((load, extra), axis=1)
        load.sort(axis=1)
    slot = torch.from_numpy(pack_in_rounds(load, num_gpus))

    label = labels(load, bits)
    expert = label >> number_bits
    most = int(logcnt.max())
    phy2log = torch.empty(layers, num_replicas, dtype=torch.int64)
    phy2log.scatter_(1, slot, torch.from_numpy(expert))
    # label = expert << number_bits | number becomes expert * most + number.
    expert *= (1 << number_bits) - most
    label -= expert
    log2phy = torch.full((layers, experts * most), -1)
    log2phy.scatter_(1, torch.from_numpy(label), slot)
    return phy2log, log2phy.view(layers, experts, most), logcnt


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer one window: see `rebalance_experts`."""
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
