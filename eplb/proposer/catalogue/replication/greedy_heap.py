"""Greedy replication with a heap.

Each spare replica goes to the expert whose replicas are hottest, as in DeepSeek's EPLB
(https://github.com/deepseek-ai/EPLB); a heap finds that expert in logarithmic time.
"""

import heapq

import torch


def replicate_experts(weight, num_physical):
    """Give each spare replica to the expert with the hottest replicas, found with a heap."""
    rows, experts = weight.shape
    counts = []
    extras = []
    for loads in weight.tolist():
        count = [1] * experts
        extra = []
        heap = [(-load, expert) for expert, load in enumerate(loads)]
        heapq.heapify(heap)
        for _ in range(num_physical - experts):
            expert = heap[0][1]
            extra.append(expert)
            count[expert] += 1
            heapq.heapreplace(heap, (-loads[expert] / count[expert], expert))
        counts.append(count)
        extras.append(extra)
    one_each = torch.arange(experts).expand(rows, experts)
    extras = torch.tensor(extras, dtype=torch.int64).view(rows, num_physical - experts)
    return torch.cat([one_each, extras], dim=1), torch.tensor(counts, dtype=torch.int64)
