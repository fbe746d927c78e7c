"""How busy NVIDIA's GPUs are, asked of the driver's own library: needs nothing installed."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache
from typing import Any


class _Use(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def busy() -> tuple[float, float] | None:
    """Mean use of all GPUs and the share of their memory that is taken, 0..1; None without a GPU."""
    library = _library()
    if library is None:
        return None
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
        return None
    use = used = total = 0
    for number in range(count.value):
        handle, one, memory = ctypes.c_void_p(), _Use(), _Memory()
        if library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)):
            return None
        # Parts of a divided GPU do not say how busy they are.
        library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(one))
        library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        use += one.gpu
        used, total = used + memory.used, total + memory.total
    return use / count.value / 100, used / max(total, 1)


@cache
def _library() -> Any:
    """The driver's library, begun; None where there is none."""
    name = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(name)
        if library.nvmlInit_v2() == 0:
            return library
    return None
