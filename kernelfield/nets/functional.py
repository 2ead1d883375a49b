"""Torch modules as functions of their parameters.

A tensor that several layers share is replaced in all of them, and a layer object that stands in
several places once. `torch.func.functional_call` replaces such a layer's tensors as often as it has
names, takes its own first replacement for the original, and leaves it in the module.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def called(module: nn.Module, tensors: Mapping[str, Tensor], *arguments: Any) -> Any:
    """What the module makes of arguments with other parameters and buffers, by their names.

    >>> import torch
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> called(nn.Sequential(layer, layer), {"0.weight": 2 * torch.eye(2)}, torch.ones(2))
    tensor([4., 4.])
    """
    places: dict[int, list[str]] = {}
    known: dict[str, int] = {}
    for path, layer in module.named_modules():
        for name, tensor in chain(
            layer.named_parameters(path, recurse=False, remove_duplicate=False),
            layer.named_buffers(path, recurse=False, remove_duplicate=False),
        ):
            places.setdefault(id(tensor), []).append(name)
            known[name] = id(tensor)
    everywhere = {place: value for name, value in tensors.items() for place in places[known[name]]}
    return functional_call(module, everywhere, arguments, tie_weights=False)
