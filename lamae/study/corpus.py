"""The corpus of a study: a shard set that is there, or sources packed once for each part of their subjects.

corpus/synthetic/                 synthetic ECGs in MIMIC-IV-ECG's layout, where the plan asks for some
corpus/part-K/sets/NAME/          shard set of a source, subjects split by hash: part K in test, val_share in val
corpus/part-K/splits/NAME.csv     how they were split
corpus/part-K/labels/TASK.zarr
"""

import csv
import dataclasses
import shutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamae.base import settings
from lamae.base.errors import UsageError
from lamae.base.files import new_file
from lamae.base.leads import LEADS
from lamae.base.progress import Progress
from lamae.base.text import slug
from lamae.evaluate.labels.sources import build_labels, detect_source, reader_of
from lamae.evaluate.labels.store import Labels, read_labels
from lamae.evaluate.probe.transfer import read_joined
from lamae.evaluate.store import require_same_rows
from lamae.sharding.format import MANIFEST_NAME, ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack, plan
from lamae.sharding.sources import MIMIC_DIAGNOSES, PTBXL_LIST, Entry
from lamae.sharding.splits import split_of_subject
from lamae.sharding.synth import synthesize
from lamae.study.plan import SHARDS, SYNTHETIC, CorpusConfig, StudyPlan, TaskConfig
from lamae.train.checkpoint.subjects import ANY_WFDB

_NOT_GIVEN = {"file", "return"}


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
    places = _places(corpus, root)
    return [
        Part(
            {name: root / f"part-{part}" / "sets" / slug(name) for name in places},
            {name: root / f"part-{part}" / "labels" / f"{slug(name)}.zarr" for name in of.tasks},
            {name: file for name, place in places.items() if (file := _own_list(place))},
        )
        for part in range(corpus.parts)
    ]


def _places(corpus: CorpusConfig, root: Path) -> dict[str, Path]:
    """Where each source is."""
    return {
        name: root / SYNTHETIC if name == SYNTHETIC else Path(str(corpus.sources[name].path)) for name in corpus.packed
    }


def _own_list(place: Path) -> Path | None:
    """The file in which a source lists diagnoses, age and sex: in its folder, or one below."""
    folders = [place, *sorted(place.iterdir())] if place.is_dir() else []
    files = [folder / name for name in (PTBXL_LIST, MIMIC_DIAGNOSES) for folder in folders]
    return next((file for file in files if file.is_file()), None)


def check_sources(of: StudyPlan, root: Path) -> None:
    """Raises UsageError where a source cannot be packed and labelled as the plan says: before anything is made."""
    if of.corpus.shards:
        return
    places = _places(of.corpus, root)
    for name, place in places.items():
        if name != SYNTHETIC and not place.exists():
            raise UsageError(
                f"corpus.sources.{name}.path={place}: not there; name what 'lamae shard' packs, such as PTB-XL's "
                "folder (https://physionet.org/content/ptb-xl/, open access)"
            )
        _pack_options(of.corpus, name)
    for name, task in of.tasks.items():
        if of.set_of(task) != SYNTHETIC:
            _label_options(f"tasks.{name}.label_options", task, places[of.set_of(task)])


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
    parts, places = open_parts(of, root), _places(corpus, root)
    if not all((path / MANIFEST_NAME).exists() for part in parts for path in part.sets.values()):
        _pack_all(of, places, parts, root, workers=workers, progress=progress)
    for part in parts:
        for name, task in of.tasks.items():
            if not part.labels[name].exists():
                source = of.set_of(task)
                options = _label_options(f"tasks.{name}.label_options", task, places[source])
                if source == SYNTHETIC:  # far fewer records than those that MIMIC's 2,000 is for
                    options = {"min_count": max(2, corpus.synthetic_records // 100), "distinct": True, **options}
                build_labels(part.sets[source], part.labels[name], allow_missing=True, **options)
    return parts


def _pack_all(
    of: StudyPlan, places: Mapping[str, Path], parts: list[Part], root: Path, *, workers: int, progress: Progress
) -> None:
    """Pack every source into one shard set for each part."""
    corpus, kinds, entries = of.corpus, {}, {}
    for name, place in places.items():
        listing = root / "listing" / slug(name)
        planned = plan(place, listing, options=_pack_options(corpus, name), progress=progress)
        kinds[name] = planned.content["source"]
        entries[name] = [entry for shard in range(planned.num_parts) for entry in planned.entries(shard)]
    shutil.rmtree(root / "listing")
    scored = {of.set_of(task) for task in of.tasks.values()}
    # Another source of the same data set has the same people.
    shared = {kinds[name] for name in scored} - {ANY_WFDB}
    for name, place in places.items():
        is_split = name in scored or kinds[name] in shared
        for number, part in enumerate(parts):
            folds = part.sets[name].parents[1] / "splits" / f"{slug(name)}.csv"
            folds.parent.mkdir(parents=True, exist_ok=True)
            with new_file(folds) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["key", "split"])
                for entry in entries[name]:
                    writer.writerow([entry.key, _split(corpus, entry, number) if is_split else "train"])
            options = dataclasses.replace(_pack_options(corpus, name), splits_from=str(folds), workers=workers)
            pack(place, part.sets[name], options=options, progress=progress)


def _pack_options(corpus: CorpusConfig, name: str) -> PackOptions:
    options = PackOptions(rate_hz=corpus.rate_hz, seconds=corpus.seconds)
    if name == SYNTHETIC:
        return options
    key = f"corpus.sources.{name}.pack"
    changed = settings.override(options, corpus.sources[name].pack, source=key)
    for taken in ("splits_from", "split_fractions", "source_folds", "workers"):
        if getattr(changed, taken) != getattr(options, taken):
            raise UsageError(f"{key}: {taken} is for the study to set")
    return changed


def _split(corpus: CorpusConfig, entry: Entry, part: int) -> str:
    """By a hash of the subject, so that it never depends on who else is there, nor on which source a person is in."""
    subject = entry.key if entry.subject is None else entry.subject
    share = (1 - corpus.val_share) / corpus.parts
    found = split_of_subject(f"part/{corpus.seed}/{subject}", [*[share] * corpus.parts, corpus.val_share])
    return "val" if found == corpus.parts else "test" if found == part else "train"


def _label_options(key: str, task: TaskConfig, place: Path) -> dict[str, Any]:
    """What ``build_labels`` is called with for a source's own labels. Raises UsageError naming ``key``."""
    given = dict(option.partition("=")[::2] for option in task.label_options)
    file = place / given.pop("file") if "file" in given else _own_list(place) or place
    if not file.exists():
        raise UsageError(f"{key}: {file} is not there")
    if file == place and not place.is_dir():
        raise UsageError(f"{key}: {place} is no folder, so its labels are not found in it; name them with file=PATH")
    source = given.pop("source", None) or detect_source(file)
    options: dict[str, Any] = {"source": source, "file": file}
    kinds = typing.get_type_hints(reader_of(source))
    for name, text in given.items():
        if name not in kinds or not text:
            known = ", ".join(sorted(kinds.keys() - _NOT_GIVEN))
            raise UsageError(f"{key}: '{name}={text}' is no option of {source} labels with a value; they have {known}")
        try:
            options[name] = _value(kinds[name], text)
        except ValueError:
            raise UsageError(f"{key}: '{name}={text}' has a value of another kind") from None
    return options


def _value(kind: Any, text: str) -> Any:
    """Text from a plan as what a reader of labels takes."""
    kinds = {kind, *typing.get_args(kind)}
    if bool in kinds:
        return bool(["false", "true"].index(text.lower()))
    for number in (int, float):
        if number in kinds:
            return number(text)
    return text if str in kinds else text.split(",")


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
            if not len(truth.rows("test")):
                raise UsageError(
                    f"tasks.{name}: none of its labelled records is held out of pretraining; a source of which no task "
                    "was there when the study began is pretrained on whole: take another --out"
                )
        if task.test_shards is not None and task.test_labels is not None:
            tested = ShardSet.open(task.test_shards)
            found = read_labels(Path(task.test_labels)).index_hash
            require_same_rows(Path(task.test_labels), found, tested.root, tested.index_hash)
