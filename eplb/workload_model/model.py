"""Shape and temper of a served model, and presets for well-known ones.

Covered: what can be chosen, and which choices make no sense. Not covered: what a choice leads to
(`eplb.workload_model.traffic`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eplb.common import UserError
from eplb.placement import Deployment
from eplb.trace import TraceHeader


@dataclass(frozen=True)
class WorkloadModel:
    """A served model and its traffic. The temper's defaults are calibrated on DeepSeek-V3.

    Popularity is in natural-log units around its layer's mean, and "share" a part of its variance.

    model, layers, experts, top_k: the model
    num_groups: groups of consecutive experts that share some of their popularity; 1 for none
    num_replicas, num_nodes, num_gpus: the deployment that the trace is meant for
    windows, records_per_window, steps_per_record: length and resolution of the trace
    tokens_per_record: mean tokens that one record sums up, per layer
    skew: standard deviation of the popularity of a domain's experts
    hot, hot_at, hot_width: what hot experts have on top of that, from how many standard deviations
        on an expert is half hot, and how gradually
    ceiling: loads bend towards this multiple of the mean, the pressure of balanced training
    group_skew, group_hot: standard deviation of what a group's experts share, in popularity and
        in how close they are to being hot
    layer_spread: relative standard deviation of the skew over layers
    domains, specialisation: domains in the mixture, and the share of popularity that is their own
    drift, memory, memory_spread: the share that wanders expert by expert, the windows in which an
        expert forgets where it was (median), and how that varies (standard deviation of the log)
    domain_drift: standard deviation of the log weight of a domain from window to window
    burstiness, jitter: standard deviation, record by record, of the log weight of a domain and of
        the popularity of an expert
    busyness: standard deviation of the log of a record's tokens
    regime_window, regime_shift: first window of the new regime (None for no change), and the
        share of popularity that is new in it
    regime_skew, regime_peak: skew of the new regime relative to the old, and what the hottest one
        in a hundred experts have on top in its first window
    shifts: smaller changes of regime, (window, share)
    """

    model: str = "deepseek-ai/DeepSeek-V3"
    layers: int = 58
    experts: int = 256
    num_groups: int = Deployment.num_groups
    num_replicas: int = Deployment.num_replicas
    num_nodes: int = Deployment.num_nodes
    num_gpus: int = Deployment.num_gpus
    top_k: int = 8
    windows: int = 12
    records_per_window: int = 10
    steps_per_record: int = 10
    tokens_per_record: int = 22500
    skew: float = 0.4376
    hot: float = 0.753
    hot_at: float = 1.7438
    hot_width: float = 0.3996
    ceiling: float = 8.7
    group_skew: float = 0.4694
    group_hot: float = 0.6248
    layer_spread: float = 0.168
    domains: int = 4
    specialisation: float = 0.354
    drift: float = 0.1574
    memory: float = 26.6
    memory_spread: float = 1.1
    domain_drift: float = 0.149
    burstiness: float = 0.25
    jitter: float = 0.11
    busyness: float = 0.15
    regime_window: int | None = 9
    regime_shift: float = 0.9985
    regime_skew: float = 1.225
    regime_peak: float = 1.12
    shifts: tuple[tuple[int, float], ...] = (
        (1, 0.497),
        (2, 0.0548),
        (5, 0.107),
        (6, 0.095),
        (7, 0.095),
        (8, 0.095),
        (10, 0.3061),
        (11, 0.3061),
    )
    seed: int = 0

    @property
    def records(self) -> int:
        return self.windows * self.records_per_window

    @property
    def deployment(self) -> Deployment:
        return Deployment(self.num_replicas, self.num_groups, self.num_nodes, self.num_gpus)

    @property
    def header(self) -> TraceHeader:
        return TraceHeader(
            model=self.model,
            source="synthetic, made by eplb.workload_model; not a recording",
            seed=self.seed,
            top_k=self.top_k,
            **vars(self.deployment),
            steps_per_record=self.steps_per_record,
            rebalance_interval=self.records_per_window,
        )

    def check(self) -> None:
        """Raise `UserError` for the first parameter that makes no sense."""
        counts = "layers experts num_groups top_k windows records_per_window steps_per_record"
        for name in f"{counts} tokens_per_record domains".split():
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.experts % self.num_groups:
            raise UserError(
                f"num_groups {self.num_groups} does not divide the {self.experts} experts; "
                f"1 stands for no groups"
            )
        if self.top_k > self.experts:
            raise UserError(f"top_k {self.top_k} is more than the {self.experts} experts")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be at least 0")
        for name in ("specialisation", "drift", "regime_shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("ceiling", "hot_width", "memory"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")


_CALIBRATED = WorkloadModel()


def _served(model, layers, experts, top_k, num_replicas, num_gpus, num_nodes) -> WorkloadModel:
    """Borrows the calibrated temper, without expert groups: of these only DeepSeek routes so."""
    return replace(_CALIBRATED, num_groups=1, **locals())


PRESETS = {
    "deepseek-v3": _CALIBRATED,
    "qwen3-235b": _served("Qwen/Qwen3-235B-A22B", 94, 128, 8, 160, 32, 4),
    "kimi-k2": _served("moonshotai/Kimi-K2-Instruct", 60, 384, 8, 448, 64, 8),
    "gpt-oss-120b": _served("openai/gpt-oss-120b", 36, 128, 4, 144, 8, 1),
    "qwen3-next": _served("Qwen/Qwen3-Next-80B-A3B-Instruct", 48, 512, 10, 544, 16, 2),
    # Three dense layers of 92 come first.
    "glm-4.5": _served("zai-org/GLM-4.5", 89, 160, 8, 192, 32, 4),
    "minimax-m2": _served("MiniMaxAI/MiniMax-M2", 62, 256, 8, 288, 32, 4),
    # Every second layer of 48 has experts.
    "llama4-maverick": _served("meta-llama/Llama-4-Maverick-17B-128E", 24, 128, 1, 144, 16, 2),
    "bursty": replace(_CALIBRATED, burstiness=1.0, jitter=0.4, domain_drift=0.5, busyness=0.5),
    "stationary": replace(_CALIBRATED, drift=0.0, domain_drift=0.0, regime_window=None, shifts=()),
    # Windows so short that each has its own few requests. Within a regime they correlate by 0.87,
    # five windows apart as much as one; recorded requests to DeepSeek-V2-Lite (published with
    # ESFT) do by 0.83 with one to a window and by 0.90 with two.
    "requests": replace(
        _CALIBRATED,
        windows=24,
        records_per_window=4,
        domains=32,
        burstiness=1.5,
        jitter=0.4,
        drift=0.0,
        domain_drift=0.0,
        regime_window=12,
        shifts=(),
    ),
    "tiny": WorkloadModel(
        model="tiny",
        layers=3,
        experts=16,
        num_groups=4,
        num_replicas=20,
        num_nodes=2,
        num_gpus=4,
        top_k=2,
        windows=4,
        records_per_window=3,
        tokens_per_record=2048,
        regime_window=2,
        shifts=(),
    ),
}
