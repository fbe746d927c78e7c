"""Leaving in the middle of a network's pass: on a processor one may take longer than anybody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def heeding(heed: Callable[[], object], *networks: Any) -> Iterator[None]:
    """Calls ``heed`` before every layer of ``networks`` that works while the block runs."""

    def listen(*_: Any) -> None:
        heed()

    with ExitStack() as hooks:
        for network in networks:
            for layer in network.modules():
                if next(layer.children(), None) is None:
                    hooks.callback(layer.register_forward_pre_hook(listen).remove)
        yield
