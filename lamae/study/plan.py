"""What a study compares: the YAML file behind ``lamae study``. Imports no torch.

methods x masks x learning rates ──search on val──▶ each method's own mask and learning rate
methods x seeds                  ──claim──▶ paired differences at equal records and at equal FLOPs
one factor at a time x seeds     ──sweep──▶ which defaults the real data ask for
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lamae.base import settings
from lamae.base.leads import parse_leads
from lamae.base.text import slug
from lamae.base.validate import above, at_least, below, one_of

KIND = "study"
"""Folder of the package's plans."""

SHARDS, SYNTHETIC = "shards", "synthetic"
PROTOCOLS = ("splits", "patients")
# What makes runs comparable is the study's to set: budgets are steps of one batch size, rates come from the search.
OF_THE_STUDY = ("run.dir", "train.steps", "train.seed", "train.global_batch_size", "optim.lr", "optim.final_lr")
TEST_SPLITS = ("test", "all")


@dataclass
class SourceConfig:
    """Recordings that a study packs for itself."""

    path: str | None = None
    """What ``lamae shard`` packs, such as PTB-XL's folder (https://physionet.org/content/ptb-xl/, open access). A null
    leaves the source out."""

    pack: list[str] = field(default_factory=list)
    """Options of packing as key=value (``lamae shard --print-config`` lists them), such as gain=1000."""


@dataclass
class CorpusConfig:
    """What is pretrained on: a shard set that is there, or sources that are packed for the study."""

    shards: str | None = None
    """A shard set from ``lamae shard``; what follows then has no effect."""

    demographics: str | None = None
    """With ``shards``: CSV with study_id, age and gender, or ptbxl_database.csv, for the age and sex reference."""

    seconds: float = 10.0
    """Length to which all recordings are brought when packed."""

    rate_hz: float = 100.0
    """Rate to which all recordings are brought when packed."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """What is pretrained on, each source packed on its own and all read as one."""

    synthetic_records: int = 0
    """Of the source "synthetic" (``lamae synth``), which is there when this is above 0."""

    synthetic_subjects: int = 1600
    """Subjects of the synthetic ECGs."""

    seed: int = 0
    """Seed of the synthetic ECGs, and of the hash by which subjects are split into parts."""

    parts: int = 2
    """The subjects of every source that a task scores are split by hash into this many parts. Part ``seed % parts`` is
    kept out of the pretraining of a seed, and scored: its shard sets' test split."""

    val_share: float = 0.15
    """Share of these subjects who are in no part, but in val: for the search, and never pretrained on nor scored."""

    @property
    def packed(self) -> list[str]:
        """Names of the sources that there are."""
        named = [name for name, source in self.sources.items() if source.path is not None]
        return named + [SYNTHETIC] * (self.synthetic_records > 0)

    def check(self) -> None:
        """Raises ValueError naming the key."""
        above(self, "corpus", synthetic_subjects=0, rate_hz=0, seconds=0, val_share=0)
        at_least(self, "corpus", synthetic_records=0, parts=2)
        below(self, "corpus", val_share=1)
        if self.demographics and not self.shards:
            raise ValueError("corpus.demographics goes with corpus.shards; sources bring age and sex themselves")
        if self.shards is None and not self.packed:
            raise ValueError("corpus: neither shards nor the path of a source nor synthetic_records is given")
        if SYNTHETIC in self.sources:
            raise ValueError(f"corpus.sources.{SYNTHETIC}: is the name of the ECGs of corpus.synthetic_records")
        refuse_same_slugs("corpus.sources", self.sources)
        paths = [source.path for source in self.sources.values() if source.path is not None]
        for path in {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"corpus.sources: two of them have the path {path}; name it once")


@dataclass
class SearchConfig:
    """How each method gets its own learning rate and mask, on validation data alone."""

    task: str = ""
    """Which task decides, by the val split of its labels; by default the first."""

    seed: int = 100
    """Seed of the search's runs."""

    steps: int = 400
    """Steps of the search's runs, each under a schedule of its own."""

    learning_rates: list[float] = field(default_factory=lambda: [2e-3, 4e-3, 8e-3])
    """Tried under the first mask."""

    rates_per_mask: int = 1
    """How many of them the other masks are tried with: those that were best under the first."""

    fit_records: int = 1000
    """In place of the task's: a search may look at more records than the runs that are many."""

    val_records: int = 800
    """In place of the task's ``test_records``."""


@dataclass
class TaskConfig:
    """Labels that frozen embeddings are probed for."""

    source: str | None = None
    """Which of the corpus's sources; by default the first."""

    labels: str | None = None
    """With ``corpus.shards``: a labels store of ``lamae labels``."""

    label_options: list[str] = field(default_factory=list)
    """How the source's own labels are read, as key=value: the options of ``lamae labels``, such as task=subclass, and
    file, a path below the source in place of the list of PTB-XL or the WFDB headers."""

    leads: str | None = None
    """The model is shown these leads alone, such as I,II."""

    protocol: str = "splits"
    """``splits``: fit on train, C on val, tested on test. ``patients``: cross-validation over the patients of the test
    split, C by an inner cross-validation; those of train, who were pretrained on, are only fitted on."""

    codes: list[str] = field(default_factory=list)
    """Codes to score; all of them where none is named."""

    fit_records: int = 1000
    """At most this many training records are embedded and fitted on; no effect on ``patients``."""

    test_records: int = 800
    """At most this many val and as many test records are embedded and scored; no effect on ``patients``."""

    folds: int = 5
    """Outer folds of ``patients``."""

    repeats: int = 2
    """Deals of the patients into folds, and draws of every share of the labels below 1."""

    label_fractions: list[float] = field(default_factory=lambda: [1.0])
    """Shares of the training subjects whose labels are used; 1 must be among them."""

    real: bool = False
    """Recorded from people: defaults are chosen by such tasks alone."""

    test_shards: str | None = None
    """Another shard set to test on, of another hospital say: fitted on the corpus, C by its val split. Protocol
    ``splits`` only; subjects of it that a run was pretrained on are refused."""

    test_labels: str | None = None
    """Labels store of ``test_shards``; scored are the codes that both stores have."""

    test_split: str = "test"
    """Which records of ``test_shards``: its test split, or ``all``."""

    def columns(self, codes: Sequence[str]) -> list[int]:
        """Which of the labels' codes are scored."""
        return [k for k, code in enumerate(codes) if not self.codes or code in self.codes]

    @property
    def lead_numbers(self) -> list[int] | None:
        """Canonical indices of ``leads``; None for all."""
        return None if self.leads is None else parse_leads(self.leads)

    def check(self) -> None:
        one_of(self, protocol=PROTOCOLS, test_split=TEST_SPLITS)
        if self.leads is not None:
            try:
                parse_leads(self.leads)
            except ValueError as error:
                raise ValueError(f"leads={self.leads}: {error}") from None
        at_least(self, fit_records=1, test_records=1, repeats=1, folds=2)
        if 1.0 not in self.label_fractions or not all(0 < share <= 1 for share in self.label_fractions):
            raise ValueError(f"label_fractions={self.label_fractions} must lie above 0, at most at 1, and hold 1.0")
        if (self.test_shards is None) != (self.test_labels is None):
            raise ValueError("test_shards and test_labels go together: a shard set, and labels of it")
        if self.test_shards is not None and self.protocol != "splits":
            raise ValueError("test_shards needs protocol=splits: fitted on the corpus, tested on the other set")
        if self.test_shards is not None and self.leads is not None:
            raise ValueError("test_shards and leads do not go together: another set is shown with all its leads")


@dataclass
class StudyPlan:
    """A whole study. Lists of ``key=value`` are overrides of a run's configuration."""

    RENAMED: ClassVar = {"judges": "tasks", "search.judge": "search.task"}

    run: str = "configs/pretrain/tiny.yaml"
    """Configuration that every run starts from."""

    set: list[str] = field(default_factory=list)
    """Overrides of every run."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the claim and of the sweep."""

    steps: int = 800
    """Steps of the claim's and the sweep's runs."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    methods: dict[str, list[str]] = field(default_factory=dict)
    """What is compared, by name; the first is the one that the others are compared with."""

    masks: dict[str, list[str]] = field(default_factory=dict)
    """Masks that every method may choose from; the first is where learning rates are searched."""

    search: SearchConfig = field(default_factory=SearchConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    sweep: dict[str, list[str]] = field(default_factory=dict)
    """One-factor changes of the first method under the first mask, by name."""

    reconstruct: dict[str, list[str]] = field(default_factory=dict)
    """Masks under which reconstruction of scored real records is measured, by name."""

    flops_tolerance: float = 0.03
    """A method whose FLOPs per record differ by more than this share from the first's also runs at equal FLOPs."""

    @property
    def search_task_name(self) -> str:
        return self.search.task or next(iter(self.tasks))

    @property
    def search_task(self) -> TaskConfig:
        """The task of the search, with the search's numbers of records."""
        task = self.tasks[self.search_task_name]
        return dataclasses.replace(task, fit_records=self.search.fit_records, test_records=self.search.val_records)

    @property
    def reconstruction_task(self) -> str:
        """Whose scored records are reconstructed: the first real task of the corpus's own sets, else the first."""
        here = [name for name, task in self.tasks.items() if task.test_shards is None]
        return next((name for name in here if self.tasks[name].real), here[0])

    @property
    def set_names(self) -> list[str]:
        """Names of the corpus's shard sets: of its sources, or SHARDS for the one that was there."""
        return [SHARDS] if self.corpus.shards else self.corpus.packed

    def set_of(self, task: TaskConfig) -> str:
        """The name of the shard set that a task is about."""
        return task.source or self.set_names[0]

    @property
    def first_method(self) -> str:
        """What the others are compared with, and what the sweep changes."""
        return next(iter(self.methods))

    @property
    def first_mask(self) -> str:
        """Where learning rates are searched, and the sweep's base."""
        return next(iter(self.masks))

    def overrides(self, method: str, mask: str) -> list[str]:
        """Of a run of this method under this mask; what a method sets itself has the last word."""
        return [*self.masks[mask], *self.methods[method]]

    def has_own_mask(self, method: str) -> bool:
        """Whether a method sets its mask itself, so that there is none to choose."""
        return any(override.startswith("mask.") for override in self.methods[method])

    def check(self) -> None:
        if not self.methods or not self.masks or not self.tasks:
            raise ValueError("methods, masks and tasks must each name at least one")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be different numbers, at least one")
        for section in ("methods", "masks", "tasks"):
            refuse_same_slugs(section, getattr(self, section))
        self._check_runs()
        at_least(self, steps=1, flops_tolerance=0)
        at_least(self.search, "search", steps=1, seed=0, fit_records=1, val_records=1)
        if min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds}: none may be below 0")
        if not all(0 < rate < math.inf for rate in self.search.learning_rates):
            raise ValueError(f"search.learning_rates={self.search.learning_rates}: all must be above 0 and finite")
        self.corpus.check()
        if self.search.task and self.search.task not in self.tasks:
            raise ValueError(f"search.task={self.search.task} is none of the tasks {', '.join(self.tasks)}")
        for name, task in self.tasks.items():
            try:
                task.check()
            except ValueError as error:
                raise ValueError(f"tasks.{name}: {error}") from None
            if self.set_of(task) not in self.set_names:
                there = ", ".join(self.set_names)
                raise ValueError(f"tasks.{name}.source={task.source}: no such source with a path; there are {there}")
            if self.corpus.shards and task.labels is None:
                raise ValueError(f"tasks.{name}.labels: with corpus.shards name a labels store of 'lamae labels'")
            if not self.corpus.shards and task.labels is not None:
                raise ValueError(f"tasks.{name}.labels goes with corpus.shards; of a source say label_options")
            if self.corpus.shards and task.label_options:
                raise ValueError(f"tasks.{name}.label_options go with corpus.sources; here labels are made already")
        if self.search_task.test_shards is not None:
            raise ValueError(f"search.task={self.search_task_name} must be of the corpus alone, without test_shards")
        if not 1 <= self.search.rates_per_mask <= len(self.search.learning_rates):
            raise ValueError(
                f"search.rates_per_mask={self.search.rates_per_mask} must lie in 1..{len(self.search.learning_rates)}, "
                "the number of search.learning_rates"
            )

    def _check_runs(self) -> None:
        """Raises ValueError where runs would not be comparable, or two of the search have one name."""
        for section in ("methods", "masks", "sweep"):
            for name, overrides in getattr(self, section).items():
                for key in {override.partition("=")[0] for override in overrides} & set(OF_THE_STUDY):
                    raise ValueError(
                        f"{section}.{name}: {key} may not differ between runs; set, steps, seeds and search say it for "
                        "all of them"
                    )
        pairs: dict[str, str] = {}
        for method in self.methods:
            for mask in self.masks:
                what = f"methods.{method} under masks.{mask}"
                if (other := pairs.setdefault(f"{slug(method)}-{slug(mask)}", what)) != what:
                    raise ValueError(f"{other} and {what} would share a directory; give one another name")


def refuse_same_slugs(section: str, names: Iterable[str]) -> None:
    """Raises ValueError where two names would share a directory."""
    slugs: dict[str, str] = {}
    for name in names:
        if (other := slugs.setdefault(slug(name), name)) != name:
            raise ValueError(f"{section}: {other!r} and {name!r} would share the same directories")


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> StudyPlan:
    """The plan of a YAML file, or of a name, with overrides, checked. Raises UsageError naming the file or key."""
    return settings.load_as(StudyPlan(), path, overrides, kind=KIND)
