"""Arithmetic on large arrays, block by block.

A chain of operations on arrays beyond the processor's cache waits for memory at each step; on
blocks it does so once. Tiles of dense networks are no larger than a block; two images of 32 x 32
positions alone have a million pairs of them.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import Tensor

BLOCK = 2**17  # elements: several such arrays stay in a second-level cache
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor | None])


def blockwise(
    rule: Callable[..., Result], first: Tensor, *others: Tensor | None, apart: tuple[int, ...] = (), reuse: bool = False
) -> Result:
    """rule(first, *others), which leaves all axes but those in `apart` to themselves.

    The others broadcast against the first. Where gradients are recorded, or on a device that is no
    processor, the rule is called once, on everything. reuse: whether results may take the place of
    the arguments of the same number and shape.
    """
    axis = next((i for i in range(-first.ndim, 0) if first.shape[i] > 1 and i not in apart), None)
    blocks = first.numel() // BLOCK
    values = (first, *others)
    recorded = any(v is not None and v.requires_grad for v in values)
    if blocks < 2 or axis is None or recorded or first.device.type != "cpu":
        return rule(*values)
    size, step = first.shape[axis], max(1, first.shape[axis] // blocks)
    results: list[Tensor | None] = []
    single = False
    for start in range(0, size, step):
        length = min(step, size - start)
        part = rule(*(_block(v, axis, start, length) for v in values))
        single = isinstance(part, Tensor)
        parts: tuple[Tensor | None, ...] = (part,) if isinstance(part, Tensor) else part
        results = results or [_room(p, axis, size, v if reuse else None) for p, v in zip(parts, values, strict=False)]
        for result, p in zip(results, parts, strict=True):
            if result is not None and p is not None:
                result.narrow(axis, start, length).copy_(p)
    return cast(Any, results[0] if single else tuple(results))


def _block(value: Tensor | None, axis: int, start: int, length: int) -> Tensor | None:
    if value is None or value.ndim < -axis or value.shape[axis] == 1:
        return value
    return value.narrow(axis, start, length)


def _room(part: Tensor | None, axis: int, size: int, old: Tensor | None) -> Tensor | None:
    """Where to gather results of which this is a part."""
    if part is None:
        return None
    shape = list(part.shape)
    shape[axis] = size
    return old if old is not None and list(old.shape) == shape else part.new_empty(shape)
