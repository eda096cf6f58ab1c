"""vllm-ascend: ``expert_map.json``, the placement that ``eplb_config.expert_map_path`` names.

``moe_layer_count``, and ``layer_list`` of ``layer_id``, ``device_count`` and ``device_list`` of
``device_id`` and ``device_expert``, the experts of the device's slots. Layers are MoE layers
counted from 0: dense layers have no number. The engine finds a layer by its place in the list.

Checked against vllm-ascend 0.23.0 (vllm_ascend/eplb). It keeps one slot per expert and device, so
two replicas of an expert on a device would be misread: the writer refuses them. Not covered:
statistics, which the engine keeps in memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eplb.common import UserError, write_text
from eplb.engines.model import EnginePlacement, ExpertStatistics, checked_rows
from eplb.engines.source import Source

SUFFIXES = (".json",)


def recognises(source: Source) -> bool:
    return source.json_has("moe_layer_count")


def read(source: Source, start: int | None = None, stop: int | None = None) -> EnginePlacement:
    """Read an expert map; it has no iterations for ``start`` and ``stop`` to choose."""
    try:
        content = source.json
        by_layer = {layer["layer_id"]: layer for layer in content["layer_list"]}
        rows = [
            _layer_row(source, by_layer[number]) for number in range(content["moe_layer_count"])
        ]
        devices = {len(layer["device_list"]) for layer in by_layer.values()}
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: {error} is missing or malformed; generate it again") from error
    if len(devices) != 1 or len(by_layer) != len(rows):
        raise UserError(
            f"{source}: moe_layer_count or the layers' devices disagree; generate it again"
        )
    layers = tuple(range(len(rows)))
    phy2log, num_experts = checked_rows(str(source), layers, rows)
    return EnginePlacement(
        phy2log, layers, num_experts, num_gpus=devices.pop(), moe_layers_only=True
    )


def _layer_row(source: Source, layer: dict) -> list[int]:
    """The experts of a layer's slots, device by device."""
    by_device = {device["device_id"]: device["device_expert"] for device in layer["device_list"]}
    complete = set(by_device) == set(range(layer["device_count"]))
    if not complete or len({len(experts) for experts in by_device.values()}) != 1:
        raise UserError(
            f"{source}: layer {layer['layer_id']} lacks a device or its devices hold different "
            f"numbers of experts; generate it again"
        )
    return [expert for device in sorted(by_device) for expert in by_device[device]]


def write(path: Path, content: ExpertStatistics | EnginePlacement) -> None:
    if not isinstance(content, EnginePlacement):
        raise UserError("vllm-ascend has no file format for statistics; choose another --format")
    if content.num_gpus is None:
        raise UserError("vllm-ascend lists experts per device; give --ep_size")
    devices = content.phy2log.reshape(len(content.phy2log), content.num_gpus, -1)
    _refuse_doubles(content.layers, devices)
    layer_list = [
        {
            "layer_id": number,
            "device_count": content.num_gpus,
            "device_list": [
                {"device_id": device, "device_expert": experts}
                for device, experts in enumerate(layer.tolist())
            ],
        }
        for number, layer in enumerate(devices)
    ]
    expert_map = {"moe_layer_count": len(layer_list), "layer_list": layer_list}
    write_text(path, json.dumps(expert_map) + "\n")


def _refuse_doubles(layers: tuple[int, ...], devices: np.ndarray) -> None:
    """``devices``: [layers, devices, slots of a device]"""
    ordered = np.sort(devices, axis=2)
    doubled = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
    if doubled.size:
        row, device, slot = doubled[0]
        raise UserError(
            f"layer {layers[row]}: device {device} holds expert {ordered[row, device, slot]} "
            f"twice, which vllm-ascend misreads; use another program or fewer slots"
        )
