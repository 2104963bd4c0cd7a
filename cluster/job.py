"""What runs on each node of a job: starts the node's ranks, passes signals on, and sees that all ranks leave together.

One of these per node, under submitit. It computes nothing: the ranks are processes of their own, so that whatever
happens to one of them (a crash, SIGKILL), somebody is left on the node to say so and to end the others.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from lamae.base import processes
from lamae.base import signals as stopping
from lamae.base.awake import AwakeClock
from lamae.base.rundirectory import RunDirectory
from lamae.cluster import policy
from lamae.cluster.conclusion import conclude
from lamae.cluster.node import Node, find_node, meet, rank_environment
from lamae.cluster.submission import (
    CANCELLED_NAME,
    CODE_NAME,
    NodeReport,
    RankEnd,
    Submission,
    attempt_folder,
    read_reports,
)
from lamae.console import set_up_logging

POLL_S = 0.2
PEERS_EVERY_S = 1.0
# Between asking a rank for its stacks (SIGABRT) and killing it.
ABORT_GRACE_S = 3.0
# After one rank has failed, the others can only notice it (and leave) or hang.
FAILED_GRACE_S = 10.0
# After one rank has left in good order, the others may still be writing a checkpoint.
LEAVE_GRACE_S = 600.0

log = logging.getLogger(__name__)


@dataclass
class NodeJob:
    """The callable that submitit carries to every node of a job."""

    folder: str
    task: int | None = None
    """Which entry of the submission's ``array`` this is; None for a job that is no array."""

    def __call__(self) -> str:
        """Run one attempt; under Slurm the batch script then decides what follows, here a local job decides itself."""
        set_up_logging()
        logging.getLogger("submitit").setLevel(logging.WARNING)  # the last line of the log is to be ours
        folder = Path(self.folder)
        submission = Submission.read(folder)
        node = find_node(os.environ)
        while True:
            attempt = attempt_folder(folder, job_id=node.job_id, restart=node.restart)
            argv = submission.argv if self.task is None else submission.array[self.task]
            report = run_attempt(argv, submission, node, attempt, code=folder / CODE_NAME)
            if submission.profile.kind == "slurm":
                break
            decision = conclude(folder, submission, attempt, hosts=[node.host])
            if decision.action != policy.REQUEUE:
                if decision.exit_code:
                    sys.exit(decision.exit_code)
                break
            until = time.monotonic() + decision.delay_s
            while time.monotonic() < until and not (folder / CANCELLED_NAME).exists():
                time.sleep(POLL_S)
            if (folder / CANCELLED_NAME).exists():
                break
            node = replace(node, restart=node.restart + 1)
        if all(end.code == 0 for end in report.ranks):
            return "done"
        # Not an exception: submitit would file it as the result of a job that goes on after a restart.
        sys.exit(0)


def run_attempt(argv: list[str], submission: Submission, node: Node, attempt: Path, *, code: Path) -> NodeReport:
    """Run this node's ranks until all of them have ended; what became of them, also left in ``attempt``."""
    num_ranks = submission.profile.num_local_ranks
    first = node.number * num_ranks
    report = NodeReport(node.number, node.host, [RankEnd(first + i, None) for i in range(num_ranks)])
    with _Signals() as signals:  # from here on a stop request is kept until there is somebody to pass it on to
        report.write(attempt)
        rendezvous = meet(attempt, node, run_dir=submission.run_dir)
        log.info(
            "node %d of %d (%s), restart %d: ranks %d to %d meet at %s:%d",
            *(node.number, node.num_nodes, node.host, node.restart, first, first + num_ranks - 1),
            *(rendezvous.address, rendezvous.port),
        )
        ranks = []
        for local_rank in range(num_ranks):
            environment = rank_environment(node, rendezvous, local_rank=local_rank, ranks_per_node=num_ranks)
            environment |= {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
            environment["PYTHONFAULTHANDLER"] = "1"  # a rank that is aborted shows its stacks
            # A session of its own: signals reach a rank once, from us.
            ranks.append(processes.start(argv, environment, own_session=True))
        run_dir = Path(submission.run_dir) if submission.run_dir and node.number == 0 else None
        stall_s = submission.profile.stall_s
        stall = _Stall(run_dir, stall_s) if run_dir and stall_s else None
        _Watch(ranks, report, signals, attempt, stall).run()
    report.finished = True
    report.write(attempt)
    return report


class _Signals:
    """Collects stop signals; a context manager."""

    def __init__(self) -> None:
        self.pending: list[int] = []

    def __enter__(self) -> "_Signals":
        stopping.handle(stopping.STOP_SIGNALS, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number in stopping.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to stop; what remains is to report

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self.pending.append(number)


@dataclass
class _Stall:
    """Notices that a run logs no steps any more and publishes no checkpoints."""

    run_dir: Path
    patience_s: int
    last_signs: list[int] = field(default_factory=list)
    last_sign_s: float = 0.0

    def noticed(self, now_s: float) -> bool:
        """``now_s``: by the watcher's clock, which never reads the file server's."""
        signs = []
        for path in (RunDirectory(self.run_dir).metrics, RunDirectory(self.run_dir).checkpoints):
            with contextlib.suppress(OSError):
                signs.append(path.stat().st_mtime_ns)
        if signs != self.last_signs:
            self.last_signs, self.last_sign_s = signs, now_s
        return now_s - self.last_sign_s > self.patience_s


@dataclass
class _Watch:
    """Waits for the ranks of a node and for the reports of other nodes."""

    ranks: list[processes.Process]
    report: NodeReport
    signals: _Signals
    attempt: Path
    stall: _Stall | None
    clock: AwakeClock = field(default_factory=lambda: AwakeClock(POLL_S), init=False)
    now_s: float = field(default=0.0, init=False)
    deadline: float = field(default=float("inf"), init=False)
    peer_failed: bool = field(default=False, init=False)
    peer_left: bool = field(default=False, init=False)
    next_look: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Until every rank has ended by itself, or was killed after another had ended or all had stalled."""
        while not self._collect():
            self.now_s = self.clock.look()
            self._look_at_peers()
            self._pass_signals_on()
            self._set_deadline()
            self._end_a_stall()
            if self.now_s > self.deadline:
                self._kill_others()
            time.sleep(POLL_S)

    def _collect(self) -> bool:
        """Note the ranks that have ended; whether all have."""
        for rank, end in zip(self.ranks, self.report.ranks, strict=True):
            code = rank.poll()
            if code is None or end.code is not None:
                continue
            end.code, end.at = code, time.time()
            log.info("rank %d ended with %s", end.rank, code)
            self.report.write(self.attempt)
        return all(end.code is not None for end in self.report.ranks)

    def _look_at_peers(self) -> None:
        if self.now_s < self.next_look:
            return
        self.next_look = self.now_s + PEERS_EVERY_S
        peers = [report for report in read_reports(self.attempt) if report.node != self.report.node]
        self.peer_failed = any(peer.failed for peer in peers)
        self.peer_left = any(end.code is not None for peer in peers for end in peer.ranks)

    def _pass_signals_on(self) -> None:
        while self.signals.pending:
            number = self.signals.pending.pop(0)
            if self.peer_failed or self.report.failed:
                continue  # ranks that wait for a dead one cannot save; they leave with the grace below
            log.info("passing %s on to the ranks", signal.Signals(number).name)
            processes.signal_all(self.ranks, number)

    def _set_deadline(self) -> None:
        if self.peer_failed or self.report.failed:
            self.deadline = min(self.deadline, self.now_s + FAILED_GRACE_S)
        elif self.peer_left or any(end.code is not None for end in self.report.ranks):
            self.deadline = min(self.deadline, self.now_s + LEAVE_GRACE_S)

    def _end_a_stall(self) -> None:
        if self.stall is not None and self.deadline == float("inf") and self.stall.noticed(self.now_s):
            log.error("no progress for %d s: ending the ranks of this attempt", self.stall.patience_s)
            processes.signal_all(self.ranks, signal.SIGABRT)
            self.deadline = self.now_s + FAILED_GRACE_S

    def _kill_others(self) -> None:
        waited_for_a_failure = self.peer_failed or self.report.failed
        for rank, end in zip(self.ranks, self.report.ranks, strict=True):
            if rank.poll() is None:
                log.warning("rank %d did not leave after another rank had ended: killing it", end.rank)
                end.killed_by_us = waited_for_a_failure
        processes.stop(self.ranks, first=signal.SIGABRT, grace_s=ABORT_GRACE_S)
