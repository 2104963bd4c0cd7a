"""One submitted job on disk: what it runs, with which code, and what became of each attempt.

    FOLDER/
      submission.json      what was asked (class Submission)
      job_id               the scheduler's number, once it has one; a new one where the job had to be submitted anew
      config.yaml          the resolved configuration, for training
      cancelled            (empty) somebody wants it to end for good
      code/                the packages as they were when the job was submitted, and of which revision
      logs/                submitit's files: the batch script, one log per node
      attempts/JOB-RESTART/
        rendezvous.json    where the ranks of this attempt meet
        node-N.json        what node N says of its ranks (class NodeReport)
        decision.json      what was decided when they had ended (class policy.Decision)

FOLDER is ``RUN/jobs/NNN`` for training and ``lamae-jobs/NNN-VERB`` for anything else.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

from lamae.base import files, settings
from lamae.base.errors import EXIT_STOPPED, LamaeError, UsageError
from lamae.base.rundirectory import RunDirectory
from lamae.cluster.profile import Profile

SUBMISSION_NAME = "submission.json"
JOB_ID_NAME = "job_id"
CANCELLED_NAME = "cancelled"
CONFIG_NAME = "config.yaml"
CODE_NAME = "code"
LOGS_NAME = "logs"
ATTEMPTS_NAME = "attempts"
DECISION_NAME = "decision.json"
RENDEZVOUS_NAME = "rendezvous.json"
OTHER_JOBS_NAME = "lamae-jobs"


@dataclass
class Submission:
    """What was asked of the scheduler."""

    verb: str
    """The verb of ``lamae`` it runs."""

    argv: list[str]
    """Arguments after ``python`` of every rank, for example ``-m lamae train …/config.yaml``."""

    profile: Profile
    """Where, on what and with how much patience."""

    run_dir: str | None = None
    """Run directory of a training job."""

    keeps_work: bool = False
    """A job other than training that goes on from what it has written when it is started again."""

    array: list[list[str]] = field(default_factory=list)
    """One ``argv`` per task of an array job; ``argv`` is empty then."""

    submitted_at: float = 0.0
    """Unix time."""

    def write(self, folder: Path) -> None:
        files.write_json(folder / SUBMISSION_NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Submission":
        """Raises UsageError where the folder holds no submission."""
        try:
            values = files.read_json(folder / SUBMISSION_NAME)
            profile = settings.from_mapping(Profile(), values["profile"], source="profile")
            return cls(**{**values, "profile": profile})
        except (FileNotFoundError, LamaeError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{folder}: not a job of 'lamae submit' ({error})") from None


@dataclass
class RankEnd:
    """How one rank of an attempt ended."""

    rank: int
    code: int | None
    """Exit code, minus the number of the signal it died of, or None while it runs."""

    at: float = 0.0
    """Unix time by its node's clock."""

    killed_by_us: bool = False
    """Killed by us because another rank had failed: a consequence, never a cause."""


@dataclass
class NodeReport:
    """What a node says of its ranks; written at the start, at the first failure and at the end."""

    node: int
    host: str
    ranks: list[RankEnd]
    finished: bool = False

    @property
    def failed(self) -> bool:
        """Whether a rank has left the others without agreeing on it: they cannot go on."""
        return any(end.code not in (None, 0, EXIT_STOPPED) for end in self.ranks)

    def write(self, attempt: Path) -> None:
        files.write_json(attempt / f"node-{self.node}.json", dataclasses.asdict(self))


def read_reports(attempt: Path) -> list[NodeReport]:
    """The reports of an attempt so far, by node."""
    reports = []
    for path in attempt.glob("node-*.json"):
        values = files.try_read_json(path)
        if values:
            ends = [RankEnd(**end) for end in values.pop("ranks")]
            reports.append(NodeReport(**values, ranks=ends))
    return sorted(reports, key=lambda report: report.node)


def attempt_folder(folder: Path, *, job_id: str, restart: int) -> Path:
    return folder / ATTEMPTS_NAME / f"{job_id}-{restart}"


def list_attempts(folder: Path) -> list[Path]:
    """Attempt folders, oldest first."""
    root = folder / ATTEMPTS_NAME
    found = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])


def make_folder(root: Path, *, suffix: str = "") -> Path:
    """A new numbered folder in ``root``; two submissions at once never share one.

    Raises UsageError where none can be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _make_folder(root, suffix)
    except OSError as error:
        raise UsageError(
            f"{root}: {error.strerror or error}; jobs keep their files there: choose another place"
        ) from None


def _make_folder(root: Path, suffix: str) -> Path:
    taken = [int(match[0]) for path in root.iterdir() if (match := re.match(r"\d+", path.name))]
    number = max(taken, default=0) + 1
    while True:
        folder = root / f"{number:03d}{suffix}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def last_published(run_dir: str | None) -> tuple[int, int] | None:
    """As ``RunDirectory.last_published``; None where there is no run."""
    return None if run_dir is None else RunDirectory(Path(run_dir)).last_published()
