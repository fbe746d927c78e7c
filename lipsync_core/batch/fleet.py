"""The rows over servers that share the queue."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LipSyncError, SettingsError
from .journal import Journal, Outcome, line_of, part_of, refuse_existing, settle
from .manifest import Row, identity
from .server import Away, Refused, Server, complaint
from .workflow import Job, Workflow

if TYPE_CHECKING:
    from ..types import Progress

log = logging.getLogger("lipsync.batch")

IN_FLIGHT = 2
"""Prompts a server holds at once: one that runs, and one so that it never waits for us."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 180.0
"""How long a silent server is asked again before its rows go to the others."""
LOSSES = 3
"""Times a prompt may vanish with its server before the row counts as failed: it may be the cause."""
EARLIER_RUNS = 50
"""Failed runs of one row that are looked past to find a fresh prompt id."""


class Lane:
    """One server and the prompts that it holds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.jobs: list[Job] = []
        self.silent_since: float | None = None
        self.next_try = 0.0
        self.gone = False


class Fleet:
    """Deals jobs out to servers until each is done or has failed."""

    def __init__(self, lanes: list[Lane], workflow: Workflow, journal: Journal) -> None:
        self.lanes, self.workflow, self.journal = lanes, workflow, journal
        self.waiting: deque[Job] = deque()
        self.outcomes: dict[int, Outcome] = {}

    def adopt(self, job: Job) -> None:
        """Looks where an earlier run left the job: still queued or done somewhere, failed, or nowhere."""
        for run in range(EARLIER_RUNS):
            job.prompt = (
                job.number if run == 0 else str(uuid.uuid5(uuid.UUID(job.number), str(run)))
            )
            found = [(lane, lane.server.find(job.prompt)[0]) for lane in self.lanes]
            for state in ("success", "queued"):
                for lane, there in found:
                    if there == state:
                        job.began = time.monotonic()
                        lane.jobs.append(job)
                        self._note("found", job, lane)
                        return
            if all(there == "absent" for _, there in found):
                break
        self.waiting.append(job)

    def run(self, progress: Progress, total: int) -> None:
        while self.waiting or any(lane.jobs for lane in self.lanes):
            for lane in self.lanes:
                if not lane.gone and time.monotonic() >= lane.next_try:
                    self._visit(lane)
            if all(lane.gone for lane in self.lanes):
                for job in self.waiting:
                    self._settle(job, "failed", None, "no server answers any more")
                self.waiting.clear()
            progress(len(self.outcomes), total)
            if self.waiting or any(lane.jobs for lane in self.lanes):
                time.sleep(POLL_SECONDS)

    def _visit(self, lane: Lane) -> None:
        try:
            for job in list(lane.jobs):
                self._follow(lane, job)
            while self.waiting and len(lane.jobs) < IN_FLIGHT:
                # It belongs to the lane from here on: a server that breaks off may have taken it.
                lane.jobs.append(self.waiting.popleft())
                self._send(lane, lane.jobs[-1])
            lane.silent_since = None
        except (Away, Refused) as error:
            now = time.monotonic()
            if lane.silent_since is None:
                log.warning("%s is away (%s); asking again", lane.server.url, error)
                lane.silent_since = now
            lane.next_try = now + min(5 * POLL_SECONDS, 10.0)
            if now - lane.silent_since > PATIENCE_SECONDS:
                log.warning("%s stays away; its rows go to the others", lane.server.url)
                lane.gone = True
                self.waiting.extendleft(reversed(lane.jobs))
                lane.jobs.clear()

    def _send(self, lane: Lane, job: Job) -> None:
        """Queues the prompt unless the server has it already: a lost answer never doubles a job."""
        job.began = job.began or time.monotonic()
        try:
            if lane.server.find(job.prompt)[0] != "absent":
                self._note("found", job, lane)
                return
            for key, name, path, remote in job.uploads:
                if not lane.server.has_input(remote, path.stat().st_size):
                    remote = lane.server.upload(path, remote)
                job.graph[key]["inputs"][name] = remote
            self._note("sending", job, lane)
            answer = lane.server.ask("/prompt", {"prompt": job.graph, "prompt_id": job.prompt})
            if answer.get("node_errors"):
                raise Refused(complaint(200, json.dumps(answer)))
        except (Refused, OSError) as error:
            self._settle(job, "failed", lane, line_of(error))

    def _follow(self, lane: Lane, job: Job) -> None:
        state, entry = lane.server.find(job.prompt)
        if state == "error":
            self._settle(job, "failed", lane, _failure(entry))
        elif state == "success":
            self._fetch(lane, job, entry)
        elif state == "absent":
            job.losses += 1
            if job.losses > LOSSES:
                self._settle(job, "failed", lane, f"the server lost it {job.losses} times")
                return
            self._note("lost", job, lane)
            self._send(lane, job)

    def _fetch(self, lane: Lane, job: Job, entry: dict[str, Any]) -> None:
        row, part = job.row, part_of(job.row, job.number)
        shown = (entry.get("outputs") or {}).get(self.workflow.result) or {}
        files = [
            file
            for values in shown.values()
            if isinstance(values, list)
            for file in values
            if isinstance(file, dict) and file.get("type") == "output" and file.get("filename")
        ]
        try:
            if not files:
                raise Refused(f"{self.workflow.title(self.workflow.result)!r} saved no file")
            ending = Path(str(files[0]["filename"])).suffix.lower()
            if ending != row.output.suffix.lower().replace(".m4v", ".mp4"):
                raise Refused(f"the server made a {ending} file; name the output so")
            row.output.parent.mkdir(parents=True, exist_ok=True)
            try:
                lane.server.download(files[0], part)
            except Refused:
                self._again(lane, job)
                return
            self.journal.keep(part, row, job.number)
        except (Refused, LipSyncError, OSError) as error:
            self._settle(job, "failed", lane, line_of(error))
        else:
            self._settle(job, "done", lane)
        finally:
            part.unlink(missing_ok=True)

    def _again(self, lane: Lane, job: Job) -> None:
        """The history tells of a file that was deleted since: a fresh prompt and name make it anew."""
        job.losses += 1
        if job.losses > LOSSES:
            self._settle(job, "failed", lane, "the server's result was deleted before it came here")
            return
        self._note("lost", job, lane)
        job.prompt = str(uuid.uuid5(uuid.UUID(job.number), f"anew {job.losses}"))
        save = job.graph[self.workflow.result]["inputs"]
        if isinstance(save.get("filename_prefix"), str):
            save["filename_prefix"] += f"-{job.losses}"
        self._send(lane, job)

    def _note(self, event: str, job: Job, lane: Lane) -> None:
        self.journal.add(event, job.row, job.number, prompt=job.prompt, server=lane.server.url)

    def _settle(self, job: Job, state: str, lane: Lane | None, error: str = "") -> None:
        if lane is not None and job in lane.jobs:
            lane.jobs.remove(job)
        outcome = Outcome(
            line=job.row.line,
            output=str(job.row.output),
            state=state,
            error=error,
            server=lane.server.url if lane else "",
            seconds=round(time.monotonic() - (job.began or time.monotonic()), 3),
        )
        self.outcomes[job.row.line] = outcome
        settle(self.journal, job.row, job.number, outcome)


def _failure(entry: dict[str, Any]) -> str:
    for message in (entry.get("status") or {}).get("messages") or ():
        kind, facts = message[0], message[1]
        if kind == "execution_error":
            return line_of(f"{facts.get('node_type')}: {facts.get('exception_message')}")
        if kind == "execution_interrupted":
            return "it was cancelled on the server"
    return "the server says that it failed, and no more"


def run_there(
    rows: Sequence[Row],
    log_file: Path,
    servers: Sequence[str],
    workflow: Workflow,
    *,
    progress: Progress,
) -> list[Outcome]:
    """Sends each row as one prompt; every row is checked against every server before the first goes."""
    lanes = [Lane(Server(url)) for url in dict.fromkeys(servers)]
    seen: dict[Path, str] = {}
    jobs: list[Job] = []
    for lane in lanes:
        try:
            known = lane.server.ask("/object_info")
        except (Away, Refused) as error:
            raise SettingsError(
                f"{lane.server.url} does not answer as a ComfyUI: {error}"
            ) from None
        workflow.check(known, lane.server.url)
        jobs = [
            workflow.job(row, identity(row, seen, *workflow.facts()), known, seen) for row in rows
        ]
    done: dict[int, Outcome] = {}
    with Journal(log_file) as journal:
        refuse_existing([(job.row, job.number) for job in jobs], journal)
        fleet = Fleet(lanes, workflow, journal)
        progress(0, len(rows))
        for job in jobs:
            row = job.row
            if journal.has_made(row, job.number):
                done[row.line] = Outcome(line=row.line, output=str(row.output), state="skipped")
                settle(journal, row, job.number, done[row.line])
                continue
            try:
                fleet.adopt(job)
            except (Away, Refused) as error:
                raise SettingsError(f"a server went away at the start: {error}") from None
        fleet.outcomes |= done
        fleet.run(progress, len(rows))
        progress(len(rows), len(rows))
    return [fleet.outcomes[row.line] for row in rows]
