"""Convolutions and portions of work for inference on a processor: fewer products, and in its cache.

Nothing is learned and nothing is left out: what training and other devices compute by PyTorch's own
kernels is computed here in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 4
"""Outputs of one tile along an axis: F(4x4, 3x3) of Lavin and Gray 2016, 36 products for 144."""
REACH = TILE + 2
WORTH = 64
"""Channels below which the transforms cost more than the products that they save."""
TILES = 256
"""Tiles in a portion: enough rows for the products of matrices to run at full speed."""
KERNELS = 192
"""Filters that are transformed at once where one portion holds all tiles."""
PORTION = 2**21
"""Numbers in the largest tensor of a portion: 8 MiB, which is in the last cache of today's processors
and is given again by the allocator without the system clearing new pages for it."""


def multiplies_bfloat16() -> bool:
    """Whether the processor itself has products in bfloat16; without, they are slower than in float32, up to ten times."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def is_frugal(x: Tensor) -> bool:
    """Whether ``x`` is to be computed in the way of this file."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def portions(count: int, each: int, most: int | None = None) -> Iterator[slice]:
    """Slices of ``count`` rows, as equal as can be, of at most ``most`` numbers at ``each`` a row.

    ``most`` is ``PORTION`` where it is not given; a slice has one row at least.
    """
    size = max(1, (most or PORTION) // each)
    parts = -(-count // size)
    for part in range(parts):
        yield slice(part * count // parts, (part + 1) * count // parts)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` by oneDNN, which PyTorch asks for float32 only where it compiles.

    A tenth to a third faster than the library that it asks otherwise, which is tuned for one maker's
    processors; and the bias is not copied into the output beforehand.
    """
    if is_frugal(x) and x.dtype == torch.float32 and _has_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


@cache
def _has_onednn() -> bool:
    """Tried once with small numbers: the operator is PyTorch's own and may change with it."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.ones(2, 3, 4), torch.ones(5, 4), torch.ones(5)
    try:
        made = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.equal(made, F.linear(x, weight, bias))


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Conv3x3(nn.Conv2d):
    """Convolution of three by three that keeps the size of the picture."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if (
            is_frugal(x)
            and x.dtype == torch.float32
            and min(self.weight.shape[:2]) >= WORTH
            and not (height % TILE or width % TILE)
            and height * width > TILE * TILE
        ):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


@cache
def _transforms() -> tuple[Tensor, Tensor]:
    """``(36, 9)`` for the weights and ``(16, 36)`` for the products; points 0, 1, -1, 2, -2, infinity."""
    weights = torch.tensor(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )
    outputs = torch.tensor(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        dtype=torch.float64,
    )
    return torch.kron(weights, weights).float(), torch.kron(outputs, outputs).float()


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``(N, O, H, W)`` channels-last of ``(N, I, H, W)`` and ``(O, I, 3, 3)``; H and W are fourfold.

    A quarter of the products of the plain convolution. The rounding error is about three times as large
    as its own, 2e-6 of the output (RMS); it grows with larger tiles, hence no larger ones.
    """
    count, into, height, width = x.shape
    out = weight.shape[0]
    down, along = height // TILE, width // TILE
    tiles = down * along
    rows = x.permute(0, 2, 3, 1)
    result = x.new_empty(count, height, width, out)
    parts = list(portions(count, tiles, TILES))
    # with one portion of pictures, the weights are made and used a portion at a time instead
    shares = [slice(0, out)] if len(parts) > 1 else list(portions(out, 1, KERNELS))
    kernels = weight.permute(0, 2, 3, 1).reshape(out, 9, into)
    for_weights, for_outputs = _transforms()
    made = torch.matmul(for_weights, kernels[shares[0]])
    for part in parts:
        some = part.stop - part.start
        seen = _tiles(rows[part], down, along)
        for k, share in enumerate(shares):
            if k:
                made = torch.matmul(for_weights, kernels[share])
            # 36 products of matrices, (tiles, I) by (I, O)
            products = torch.bmm(seen, made.permute(1, 2, 0))
            drawn = torch.matmul(for_outputs, products.flatten(1))
            drawn = drawn.view(TILE, TILE, some, down, along, -1)
            if bias is not None:
                drawn += bias[share]
            place = result[part].unflatten(2, (along, TILE)).unflatten(1, (down, TILE))
            place[..., share].copy_(drawn.permute(2, 3, 0, 4, 1, 5))
    return result.permute(0, 3, 1, 2)


def _tiles(rows: Tensor, down: int, along: int) -> Tensor:
    """``(36, N * tiles, C)`` of pictures ``(N, H, W, C)``: tiles of 6x6 every four places, transformed."""
    count, height, width, channels = rows.shape
    padded = rows.new_zeros(count, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = rows
    half = rows.new_empty(REACH, count, down, width + 2, channels)
    _transform([padded[:, i : i + TILE * (down - 1) + 1 : TILE] for i in range(REACH)], half)
    whole = rows.new_empty(REACH, REACH, count, down, along, channels)
    columns = [half[:, :, :, i : i + TILE * (along - 1) + 1 : TILE] for i in range(REACH)]
    _transform(columns, whole.transpose(0, 1))
    return whole.view(REACH * REACH, -1, channels)


def _transform(d: list[Tensor], out: Tensor) -> None:
    """The input transform of F(4, 3) along one axis: six tensors to six, in twelve sums."""
    even, odd = d[4] - d[2], d[3] - d[1]
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.add(even, d[0] - d[2], alpha=4, out=out[0])
    torch.sub(d[5] - d[3], odd, alpha=4, out=out[5])
    torch.sub(d[4], d[2], alpha=4, out=even)
    torch.sub(d[3], d[1], alpha=4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
