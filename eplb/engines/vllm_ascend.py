"""vllm-ascend and MindIE: ``expert_map.json``, which ``eplb_config.expert_map_path`` names.

``moe_layer_count``, and ``layer_list`` of ``device_count`` and ``device_list`` of
``device_expert``, the experts of the device's slots. Layers are MoE layers, dense ones have no
number. The engine finds layers and devices by their place in the lists: ``layer_id`` and
``device_id`` may be missing or start anywhere.

Checked against vllm-ascend 0.23.0 (vllm_ascend/eplb). It keeps one slot per expert and device, so
two replicas of an expert on a device would be misread: the writer refuses them. Not covered:
statistics, which the engine keeps in memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eplb.common import UserError, write_text
from eplb.engines.model import EnginePlacement, Format
from eplb.engines.reading import placement_of
from eplb.engines.source import Source


def recognises(source: Source) -> bool:
    return source.has("moe_layer_count") or source.has("layer_list")


def read(source: Source) -> EnginePlacement:
    """Raises `UserError` where layers list other numbers of devices, or devices of experts.

    MindIE lists devices that hold nothing but a shared expert: those are left out.
    """
    try:
        listed = source.content["layer_list"]
        layers = [[each["device_expert"] for each in layer["device_list"]] for layer in listed]
        sizes = [[len(experts) for experts in layer] for layer in layers]
        counts = [layer.get("device_count", len(sizes[0])) for layer in listed]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{source}: {error} is missing or malformed; generate it again") from error
    told = source.content.get("moe_layer_count", len(layers))
    if told != len(layers) or not layers:
        found = f"layer_list has {len(layers)} layers; generate it again"
        raise UserError(f"{source}: moe_layer_count is {told}, {found}")
    most = max(sizes[0], default=0)
    routed = [device for device, size in enumerate(sizes[0]) if size == most]
    for layer, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if size != sizes[0] or len(size) != count or set(size) - {1, most}:
            raise UserError(
                f"{source}: layer {layer} lacks a device or a slot, its {count} devices have "
                f"{size} slots and those of layer 0 {sizes[0]}; generate it again"
            )
    rows = [[expert for device in routed for expert in layer[device]] for layer in layers]
    return placement_of(source, rows, num_gpus=len(routed), moe_layers_only=True)


def write_placement(path: Path, placement: EnginePlacement) -> None:
    if placement.num_gpus is None:
        raise UserError("vllm-ascend lists experts per device; give --ep_size")
    devices = placement.phy2log.reshape(len(placement.phy2log), placement.num_gpus, -1)
    ordered = np.sort(devices, axis=2)
    doubled = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
    if doubled.size:
        row, device, slot = doubled[0]
        raise UserError(
            f"layer {placement.layers[row]}: device {device} holds expert "
            f"{ordered[row, device, slot]} twice, which vllm-ascend misreads; use another program "
            f"or fewer slots"
        )
    layer_list = []
    for number, layer in enumerate(devices.tolist()):
        listed = [{"device_id": d, "device_expert": experts} for d, experts in enumerate(layer)]
        layer_list.append({"layer_id": number, "device_count": len(listed), "device_list": listed})
    expert_map = {"moe_layer_count": len(layer_list), "layer_list": layer_list}
    write_text(path, json.dumps(expert_map) + "\n")


FORMAT = Format(
    "vllm-ascend",
    recognises,
    read,
    write_placement,
    suffixes=(".json",),
    how_to_use='vllm-ascend reads it with --additional-config \'{{"eplb_config": '
    '{{"expert_map_path": "{path}"}}}}\'',
    one_replica_per_gpu=True,
    numbers_moe_layers=True,
)
