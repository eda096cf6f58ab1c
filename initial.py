"""The seed: DeepSeek's hierarchical expert-parallelism load balancing, written in tensors.

The policy is that of https://github.com/deepseek-ai/EPLB: pack expert groups to nodes, give hot
experts extra replicas within their node, pack the replicas to the node's GPUs. Where groups do
not divide over the nodes it treats everything as one group on one node, the global policy.

`python initial.py` shows it at work.
"""

import torch


# EVOLVE-BLOCK-START
def balanced_packing(weight, num_packs):
    """Pack items to packs of equal size, heaviest item first, each to the lightest open pack.

    weight: [rows, items], the weight of each item; every row is a problem of its own
    num_packs: packs per row; it divides the number of items

    Returns ``pack_index`` [rows, items], the pack of each item, and ``rank_in_pack``
    [rows, items], the item's position in that pack.
    """
    rows, items = weight.shape
    capacity = items // num_packs
    if capacity == 1:
        pack_index = torch.arange(items).expand(rows, items)
        return pack_index, torch.zeros_like(pack_index)

    pack_index = torch.empty(rows, items, dtype=torch.int64)
    rank_in_pack = torch.empty(rows, items, dtype=torch.int64)
    heaviest_first = weight.sort(dim=-1, descending=True).indices
    for row in range(rows):
        load = [0.0] * num_packs
        count = [0] * num_packs
        for item in heaviest_first[row].tolist():
            open_packs = [pack for pack in range(num_packs) if count[pack] < capacity]
            lightest = min(open_packs, key=load.__getitem__)
            pack_index[row, item] = lightest
            rank_in_pack[row, item] = count[lightest]
            load[lightest] += weight[row, item].item()
            count[lightest] += 1
    return pack_index, rank_in_pack


def replicate_experts(weight, num_physical):
    """Give every expert one replica, then each spare one to the expert with the hottest replica.

    weight: [rows, experts], the load of each expert
    num_physical: replicas per row, at least the number of experts

    Returns ``phy2log`` [rows, num_physical], the expert of each replica, and ``logcnt``
    [rows, experts], the replicas of each expert.
    """
    rows, experts = weight.shape
    every_row = torch.arange(rows)
    phy2log = torch.arange(num_physical).repeat(rows, 1)
    logcnt = torch.ones(rows, experts, dtype=torch.int64)
    for replica in range(experts, num_physical):
        hottest = (weight / logcnt).argmax(dim=-1)
        phy2log[:, replica] = hottest
        logcnt[every_row, hottest] += 1
    return phy2log, logcnt


def rebalance_experts_hierarchical(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Place replicas so that every expert group lives on one node.

    weight: [layers, experts], the load of each expert
    num_groups: groups of consecutive experts; the nodes divide them evenly

    Returns ``phy2log`` [layers, num_replicas] and ``logcnt`` [layers, experts].
    """
    layers, experts = weight.shape
    group_size = experts // num_groups
    experts_per_node = experts // num_nodes
    replicas_per_node = num_replicas // num_nodes
    gpus_per_node = num_gpus // num_nodes

    # Stage 1: pack groups to nodes, and list the experts of each node in turn.
    group_load = weight.unflatten(-1, (num_groups, group_size)).sum(dim=-1)
    node, rank = balanced_packing(group_load, num_nodes)
    groups_in_order = (node * (num_groups // num_nodes) + rank).argsort(dim=-1)
    node_experts = groups_in_order.unsqueeze(-1) * group_size + torch.arange(group_size)
    node_experts = node_experts.view(layers * num_nodes, experts_per_node)

    # Stage 2: replicate the hot experts of each node. One row is one node of one layer.
    every_layer = torch.arange(layers).repeat_interleave(num_nodes).unsqueeze(-1)
    node_weight = weight[every_layer, node_experts]
    replica, count = replicate_experts(node_weight, replicas_per_node)

    # Stage 3: pack the replicas of each node to its GPUs.
    replica_load = (node_weight / count).gather(-1, replica)
    gpu, rank = balanced_packing(replica_load, gpus_per_node)
    slot = gpu * (replicas_per_node // gpus_per_node) + rank
    expert_in_slot = replica.gather(-1, slot.argsort(dim=-1))
    phy2log = node_experts.gather(-1, expert_in_slot).view(layers, num_replicas)

    logcnt = torch.empty(layers, experts, dtype=torch.int64)
    logcnt[every_layer, node_experts] = count
    return phy2log, logcnt


def slots_by_expert(phy2log, logcnt):
    """List the slots of each expert: ``log2phy`` [layers, experts, most replicas], then -1."""
    layers, slots = phy2log.shape
    first = logcnt.cumsum(dim=-1) - logcnt
    expert, slot = phy2log.sort(dim=-1, stable=True)
    rank = torch.arange(slots) - first.gather(-1, expert)
    log2phy = torch.full((*logcnt.shape, int(logcnt.max())), -1, dtype=torch.int64)
    log2phy[torch.arange(layers).unsqueeze(-1), expert, rank] = slot
    return log2phy


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Decide which expert every slot holds.

    weight: [layers, experts], tokens routed to each expert in the last window
    num_replicas: slots per layer; GPU g holds slots g*S to (g+1)*S-1, S = num_replicas / num_gpus

    Returns ``phy2log`` [layers, num_replicas], the expert in each slot; ``log2phy``
    [layers, experts, X], the slots of each expert, then -1; ``logcnt`` [layers, experts], the
    replicas of each expert. All int64.
    """
    weight = weight.float().cpu()
    if num_groups % num_nodes != 0:
        num_groups, num_nodes = 1, 1
    phy2log, logcnt = rebalance_experts_hierarchical(
        weight, num_replicas, num_groups, num_nodes, num_gpus
    )
    log2phy = slots_by_expert(phy2log, logcnt)
    return phy2log, log2phy, logcnt


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer one window: see `rebalance_experts`."""
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)


def main():
    """Place the 12 experts of two layers in 16 slots, and print the load of each GPU."""
    weight = torch.tensor(
        [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ]
    )
    phy2log, _, logcnt = run_eplb(weight, num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8)
    gpu_load = (weight / logcnt).gather(-1, phy2log).view(2, 8, 2).sum(dim=-1)
    for layer in range(2):
        print(f"layer {layer}: experts in slots {phy2log[layer].tolist()}")
        print(f"         tokens per GPU   {gpu_load[layer].tolist()}")


if __name__ == "__main__":
    main()
