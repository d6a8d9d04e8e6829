"""Small modules, stores of their tasks, and checks of what a module holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tallies import Store, pack

Tensors = dict[str, torch.Tensor]

TASKS = ("math", "code", "chat")

CODECS: dict[str, dict[str, Any]] = {
    "tall": {},
    "emr": {},
    "magnitude": {},
    "sparse": {"density": 0.3},
    "exact": {"codec": "sparse", "density": "exact"},
    "int8": {"codec": "sparse", "density": 0.3, "values": "int8"},
    "lossless": {},
    "bitdelta": {},
    "tsv_c": {"fraction": 0.5},
    "twin": {"fraction": 0.5},
}

TILE = 1 << 16


class Net(torch.nn.Module):
    """Parameters of three dtypes, one of them frozen, and buffers with and without a fraction."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(41, 7)
        self.linear = torch.nn.Linear(7, 5, dtype=torch.bfloat16)
        self.gain = torch.nn.Parameter(torch.ones(9, dtype=torch.float16))
        self.frozen = torch.nn.Parameter(torch.randn(6), requires_grad=False)
        self.norm = torch.nn.BatchNorm1d(7)
        self.register_buffer("ids", torch.arange(7))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


class TiedNet(Net):
    """The head is the embedding, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(7, 41, bias=False)
        self.head.weight = self.embed.weight


def copies(model: torch.nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def expert_of(base: Tensors, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor
        if not tensor.is_floating_point() or name == "frozen"
        else (tensor + torch.randn(tensor.shape, generator=generator) * (1 + seed % 3) / 10).to(
            tensor.dtype
        )
        for name, tensor in base.items()
    }


def packed(root: Path, base: Tensors, codec: str, **parameters: Any) -> Store:
    given = {"codec": codec, **CODECS.get(codec, {}), **parameters}
    save_file(base, root / "base.safetensors")
    for seed, task in enumerate(TASKS):
        save_file(expert_of(base, seed), root / f"{task}.safetensors")
    tasks = {task: root / f"{task}.safetensors" for task in TASKS}
    pack(root / "base.safetensors", tasks, root / "store", **given)
    return Store.open(root / "store")


def bits(tensor: torch.Tensor) -> bytes:
    if not tensor.numel():
        return b""
    return bytes(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_is(model: torch.nn.Module, expected: Mapping[str, torch.Tensor]) -> None:
    """The model holds these tensors, bit for bit, and no others."""
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


def addresses(model: torch.nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


SHARED_CODECS = ("tall", "emr", "magnitude")


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class Classifier(torch.nn.Module):
    """Two layers and a norm whose statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, *, shift: float = 0.0) -> torch.Tensor:
        out: torch.Tensor = self.last(self.norm(self.first(x)).tanh()) + shift
        return out


def deltas_of(module: torch.nn.Module, n_tasks: int) -> list[Tensors]:
    return [
        {name: torch.randn_like(one) / 5 for name, one in module.named_parameters()}
        for _ in range(n_tasks)
    ]
