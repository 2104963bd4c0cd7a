"""The corpus of a study: a shard set that is there, or sources packed once for each part of their subjects.

corpus/synthetic/            synthetic ECGs in MIMIC-IV-ECG's layout, where the plan asks for some
corpus/part-K/NAME/          shard set of a source: part K of the subjects in test, val_share of them in val; all in
                             train where no task scores the source
corpus/part-K/labels/TASK.zarr
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lamae.base import settings
from lamae.base.errors import UsageError
from lamae.base.files import write_csv
from lamae.base.leads import LEADS
from lamae.base.progress import Progress
from lamae.evaluate.labels.sources import build_labels, detect_source
from lamae.evaluate.labels.store import Labels, read_labels
from lamae.evaluate.probe.transfer import read_joined
from lamae.evaluate.store import require_same_rows
from lamae.sharding.format import MANIFEST_NAME, ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack, plan
from lamae.sharding.sources import PTBXL_LIST, Entry
from lamae.sharding.splits import split_of_subject
from lamae.sharding.synth import synthesize
from lamae.study.plan import SHARDS, SYNTHETIC, CorpusConfig, StudyPlan, TaskConfig

DIAGNOSES = "records_w_diag_icd10.csv"


@dataclass(frozen=True)
class Part:
    """The shard sets of which one part of the subjects is held out, and their labels."""

    sets: dict[str, Path]
    """Shard sets by name: all of them are pretrained on."""
    labels: dict[str, Path]
    """Labels store by task."""
    demographics: dict[str, Path]
    """By set, where it is known: CSV with age and sex."""

    def truth_of(self, name: str, task: TaskConfig) -> Labels:
        """A task's labels; with ``test_shards`` the rows of that set follow the corpus's, and are its test split."""
        if task.test_labels is None:
            return read_labels(self.labels[name])
        return read_joined(self.labels[name], Path(task.test_labels), test_split=task.test_split)


@dataclass(frozen=True)
class View:
    """Records of a shard set as a run embeds them: with all leads, or some."""

    name: str
    shards: Path
    leads: tuple[int, ...] | None = None


def views(of: StudyPlan, name: str, part: Part) -> tuple[View, View | None]:
    """What a task looks at: in its own shard set, and in the other one where it tests."""
    task = of.tasks[name]
    shards, leads = part.sets[of.set_of(task)], task.lead_numbers
    if leads is None:
        here = View(of.set_of(task), shards)
    else:
        here = View(f"{of.set_of(task)} {'+'.join(LEADS[lead] for lead in leads)}", shards, tuple(leads))
    return here, View(f"tested {name}", Path(task.test_shards)) if task.test_shards else None


def open_parts(of: StudyPlan, root: Path) -> list[Part]:
    """The parts of a corpus that is complete."""
    corpus = of.corpus
    if corpus.shards:
        labels = {name: Path(str(task.labels)) for name, task in of.tasks.items()}
        demographics = {SHARDS: Path(corpus.demographics)} if corpus.demographics else {}
        return [Part({SHARDS: Path(corpus.shards)}, labels, demographics)]
    places = sources(corpus, root)
    known = [(name, place / file) for name, place in places.items() for file in (PTBXL_LIST, DIAGNOSES)]
    return [
        Part(
            {name: root / f"part-{part}" / name for name in places},
            {name: root / f"part-{part}" / "labels" / f"{name}.zarr" for name in of.tasks},
            {name: file for name, file in known if file.is_file()},
        )
        for part in range(corpus.parts)
    ]


def sources(corpus: CorpusConfig, root: Path) -> dict[str, Path]:
    """Where each source is."""
    return {
        name: root / SYNTHETIC if name == SYNTHETIC else Path(str(corpus.sources[name].path)) for name in corpus.packed
    }


def check_sources(corpus: CorpusConfig) -> None:
    """Raises UsageError where a source cannot be packed as the plan says: before anything is made."""
    for name in [] if corpus.shards else corpus.packed:
        if name == SYNTHETIC:
            continue
        if not Path(str(corpus.sources[name].path)).exists():
            raise UsageError(
                f"corpus.sources.{name}.path={corpus.sources[name].path}: not there; name what 'lamae shard' packs, "
                "such as PTB-XL's folder (https://physionet.org/content/ptb-xl/, open access)"
            )
        _pack_options(corpus, name)


def build_corpus(of: StudyPlan, root: Path, *, workers: int, progress: Progress) -> list[Part]:
    """Make what is missing of the corpus below ``root``; killed and called again it goes on."""
    corpus = of.corpus
    if corpus.shards:
        ShardSet.open(corpus.shards)
        return open_parts(of, root)
    if corpus.synthetic_records and not (root / SYNTHETIC).exists():
        synthesize(
            root / SYNTHETIC,
            num_records=corpus.synthetic_records,
            num_subjects=corpus.synthetic_subjects,
            seed=corpus.seed,
            progress=progress,
        )
    parts = open_parts(of, root)
    scored = {of.set_of(task) for task in of.tasks.values()}
    for name, place in sources(corpus, root).items():
        _pack(corpus, name, place, [part.sets[name] for part in parts], name in scored, workers, progress)
    for part in parts:
        for name, task in of.tasks.items():
            if not part.labels[name].exists():
                source = of.set_of(task)
                options = _label_options(task, sources(corpus, root)[source], corpus)
                build_labels(part.sets[source], part.labels[name], allow_missing=True, **options)
    return parts


def _pack(
    corpus: CorpusConfig, name: str, place: Path, outs: list[Path], scored: bool, workers: int, progress: Progress
) -> None:
    """Pack a source into one shard set for each part."""
    if all((out / MANIFEST_NAME).exists() for out in outs):
        return
    options = _pack_options(corpus, name)
    listed = outs[0].with_name(f"{name}-listing")
    planned = plan(place, listed, options=options, progress=progress)
    entries = [entry for part in range(planned.num_parts) for entry in planned.entries(part)]
    shutil.rmtree(listed)
    for part, out in enumerate(outs):
        folds = out.with_name(f"{name}-splits.csv")
        rows = [[entry.key, _split(corpus, entry, part) if scored else "train"] for entry in entries]
        out.parent.mkdir(exist_ok=True)
        write_csv(folds, ["key", "split"], rows)
        options.splits_from, options.workers = str(folds), workers
        pack(place, out, options=options, progress=progress)


def _pack_options(corpus: CorpusConfig, name: str) -> PackOptions:
    options = PackOptions(rate_hz=corpus.rate_hz, seconds=corpus.seconds)
    if name == SYNTHETIC:
        return options
    try:
        return settings.override(options, corpus.sources[name].pack)
    except UsageError as error:
        raise UsageError(f"corpus.sources.{name}.pack: {error}") from None


def _split(corpus: CorpusConfig, entry: Entry, part: int) -> str:
    """By a hash of the subject, so that it never depends on who else is there, nor on which source a person is in."""
    subject = entry.key if entry.subject is None else entry.subject
    share = (1 - corpus.val_share) / corpus.parts
    found = split_of_subject(f"part/{corpus.seed}/{subject}", [*[share] * corpus.parts, corpus.val_share])
    return "val" if found == corpus.parts else "test" if found == part else "train"


def _label_options(task: TaskConfig, place: Path, corpus: CorpusConfig) -> dict[str, Any]:
    """What ``build_labels`` is called with for a source's own labels."""
    given: Mapping[str, Any] = {
        name: yaml.safe_load(value) for name, _, value in (option.partition("=") for option in task.label_options)
    }
    lists = [place / name for name in (PTBXL_LIST, DIAGNOSES) if (place / name).is_file()]
    file = place / given["file"] if "file" in given else lists[0] if lists else place
    options = {"source": detect_source(file), **given, "file": file}
    if file == place / DIAGNOSES:  # of synthetic ECGs: far fewer than the records that MIMIC's 2,000 is for
        options = {"min_count": max(2, corpus.synthetic_records // 100), "distinct": True, **options}
    return options


def check_labels(of: StudyPlan, parts: list[Part]) -> None:
    """Raises UsageError unless every task's labels belong to the corpus and hold the codes that it names."""
    for name, task in of.tasks.items():
        for part in parts:
            path, shard_set = part.labels[name], ShardSet.open(part.sets[of.set_of(task)])
            require_same_rows(path, read_labels(path).index_hash, shard_set.root, shard_set.index_hash)
            truth = part.truth_of(name, task)
            unknown = [code for code in task.codes if code not in truth.codes]
            if unknown:
                raise UsageError(f"tasks.{name}.codes: {', '.join(unknown)} not in {path} ({', '.join(truth.codes)})")
        if task.test_shards is not None and task.test_labels is not None:
            tested = ShardSet.open(task.test_shards)
            found = read_labels(Path(task.test_labels)).index_hash
            require_same_rows(Path(task.test_labels), found, tested.root, tested.index_hash)
