"""Self Check: the doctor's report on the graph."""

from __future__ import annotations

import time
from typing import Any

from . import bridge, sockets
from .bridge import Schema, io, option, output, ui


class SelfCheck(bridge.Node):
    """What works on this machine, and what to do about the rest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncCheckSystem",
            display_name="LipSync Self Check",
            category=bridge.CATEGORY,
            description=(
                "Says what LipSync finds on this machine: libraries, encoders, devices, face detectors, engines and "
                "model folders, and what to do about anything that is missing. Downloads nothing."
            ),
            search_aliases=[
                "doctor",
                "diagnose",
                "lip sync status",
                "requirements",
                "lip sync help",
            ],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                option(
                    sockets.Report,
                    "report_text",
                    optional=True,
                    tooltip="The report appears here after a run.",
                ),
            ],
            outputs=[
                output(
                    io.String,
                    "report",
                    "One line for every part: state, name, what was found, what to do.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        # What is installed may change between two runs without any input changing.
        return time.time()

    @classmethod
    def execute(cls, report_text: Any = None) -> io.NodeOutput:
        from ..lipsync_core.doctor import examine

        bridge.share_models()
        report = "\n".join(
            f"[{finding.state}] {finding.part}: {finding.found}"
            + (f" -> {finding.remedy}" if finding.remedy else "")
            for finding in examine()
        )
        return io.NodeOutput(report, ui=ui.PreviewText(report))
