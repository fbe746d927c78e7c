"""Reference data and seeded weights for all tests."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """``golden("latentsync/x.json")``: the file in tests/golden, or in the full set in
    ``shared/golden`` beside the checkout; skips where neither has it."""

    def find(name: str) -> Path:
        for folder in (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden"):
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is only in the full reference set (shared/golden beside the checkout)")

    return find


@pytest.fixture(scope="session")
def seeded() -> Callable[..., dict[str, Any]]:
    """Weights by the recipe of the reference data (tests/golden/latentsync/README.md)."""

    def make(shapes: Mapping[str, tuple[int, ...]], seed: int, gain: float = 1.0) -> dict[str, Any]:
        import torch

        tensors = {}
        for key, shape in shapes.items():
            draw = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
            z = draw.standard_normal(shape, dtype=np.float32)
            if len(shape) > 1:
                z = z * np.float32(gain / np.sqrt(np.prod(shape[1:])))
            elif key.endswith("weight"):
                z = 1 + np.float32(0.1) * z
            else:
                z = np.float32(0.05) * z
            tensors[key] = torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32))
        return tensors

    return make
