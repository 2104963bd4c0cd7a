"""The mixed corpus of a study: synthetic ECGs, PTB-XL and other recordings in one tree, packed once per part.

corpus/tree/             MIMIC-IV-ECG's layout: study ids of sources never meet
corpus/part-K/shards     train: synthetic train, PTB-XL without the patients of part K, the others
                         test: synthetic test, the PTB-XL patients of part K (none of which is pretrained on)
corpus/part-K/labels/    synthetic.zarr, ptbxl.zarr
"""

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.files import write_csv
from lamae.base.progress import Progress
from lamae.base.tables import Table
from lamae.evaluate.labels.sources import build_labels, read_ptbxl
from lamae.evaluate.labels.store import Labels, read_labels
from lamae.evaluate.probe.transfer import read_joined
from lamae.evaluate.store import require_same_rows
from lamae.sharding.format import MANIFEST_NAME, ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack
from lamae.sharding.splits import split_of_subject
from lamae.sharding.synth import synthesize
from lamae.study.plan import CorpusConfig, StudyPlan, TaskConfig

SPLITS = ("train", "val", "test")
# First digits of ids: synthetic subjects begin with 1 and their studies with 4.
_PTBXL_SUBJECT, _PTBXL_STUDY = 20_000_000, 50_000_000
_OTHER_SUBJECT, _OTHER_STUDY = 30_000_000, 60_000_000


@dataclass(frozen=True)
class Part:
    """One shard set of the corpus and its labels."""

    shards: Path
    labels: dict[str, Path]
    demographics: Path | None = None
    """CSV with study_id, age and gender."""

    def labels_of(self, task: TaskConfig) -> Path:
        return self.labels.get(task.labels, Path(task.labels))

    def truth_of(self, task: TaskConfig) -> Labels:
        """A task's labels; with ``test_shards`` the rows of that set follow the corpus's, and are its test split."""
        if task.test_labels is None:
            return read_labels(self.labels_of(task))
        return read_joined(self.labels_of(task), Path(task.test_labels), test_split=task.test_split)


def open_parts(corpus: CorpusConfig, root: Path) -> list[Part]:
    """The parts of a corpus that is complete."""
    if corpus.shards:
        return [Part(Path(corpus.shards), {}, Path(corpus.demographics) if corpus.demographics else None)]
    names = ["synthetic", *(["ptbxl"] if corpus.ptbxl else [])]
    return [
        Part(
            root / f"part-{part}" / "shards",
            {name: root / f"part-{part}" / "labels" / f"{name}.zarr" for name in names},
            root / "tree" / "demographics.csv",
        )
        for part in range(corpus.parts if corpus.ptbxl else 1)
    ]


def build_corpus(corpus: CorpusConfig, root: Path, *, workers: int, progress: Progress) -> list[Part]:
    """Make what is missing of the corpus below ``root``; killed and called again it goes on."""
    parts = open_parts(corpus, root)
    if corpus.shards:
        ShardSet.open(corpus.shards)
        return parts
    tree = root / "tree"
    if not tree.exists():
        _make_tree(corpus, tree, progress)
    for part, made in enumerate(parts):
        folds = root / f"part-{part}" / "splits.csv"
        if not (made.shards / MANIFEST_NAME).exists():
            _write_splits(corpus, tree, folds, part=part)
            options = PackOptions(
                source="mimic",
                workers=workers,
                rate_hz=float(corpus.rate_hz),
                splits_from=str(folds),
                audit=0.0,
            )
            pack(tree, made.shards, options=options, progress=progress)
        shard_set = ShardSet.open(made.shards)
        if not made.labels["synthetic"].exists():
            build_labels(
                shard_set,
                made.labels["synthetic"],
                source="mimic-icd10",
                file=tree / "records_w_diag_icd10.csv",
                min_count=max(2, corpus.synthetic_records // 100),
                distinct=True,
                allow_missing=True,
            )
        if "ptbxl" in made.labels and not made.labels["ptbxl"].exists():
            build_labels(
                shard_set,
                made.labels["ptbxl"],
                source="csv",
                file=tree / "ptbxl_superclasses.csv",
                key_column="study_id",
                min_count=1,
                allow_missing=True,
            )
    return parts


def check_labels(plan: StudyPlan, parts: list[Part]) -> None:
    """Raises UsageError unless every task's labels belong to the corpus and hold the codes that it names."""
    for name, task in plan.tasks.items():
        for part in parts:
            path, shard_set = part.labels_of(task), ShardSet.open(part.shards)
            require_same_rows(path, read_labels(path).index_hash, part.shards, shard_set.index_hash)
            truth = part.truth_of(task)
            unknown = [code for code in task.codes if code not in truth.codes]
            if unknown:
                raise UsageError(f"tasks.{name}.codes: {', '.join(unknown)} not in {path} ({', '.join(truth.codes)})")
        if task.test_shards is not None and task.test_labels is not None:
            tested = ShardSet.open(task.test_shards)
            found = read_labels(Path(task.test_labels)).index_hash
            require_same_rows(Path(task.test_labels), found, tested.root, tested.index_hash)


def check_sources(corpus: CorpusConfig, root: Path) -> None:
    """Raises UsageError where recordings that a corpus still has to take in are not there: before anything is made."""
    if corpus.shards or (root / "tree").exists():
        return
    for name in ("ptbxl_database.csv", "scp_statements.csv") if corpus.ptbxl else ():
        if not (Path(str(corpus.ptbxl)) / name).is_file():
            raise UsageError(
                f"corpus.ptbxl={corpus.ptbxl}: no {name} there; name the folder of PTB-XL that holds it "
                "(https://physionet.org/content/ptb-xl/, open access)"
            )
    for place in corpus.others:
        _headers(Path(place))


def _make_tree(corpus: CorpusConfig, tree: Path, progress: Progress) -> None:
    """All recordings in one tree, beside it what is known of them. Complete once it has its name."""
    partial = tree.with_name(".tree.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    synthesize(
        partial,
        num_records=corpus.synthetic_records,
        num_subjects=corpus.synthetic_subjects,
        seed=corpus.seed,
        progress=progress,
    )
    people = [
        [row["study_id"], row["age"], row["gender"]]
        for _, row in Table(partial / "records_w_diag_icd10.csv").rows("study_id", "age", "gender")
    ]
    paths: list[str] = []
    if corpus.ptbxl:
        paths += _add_ptbxl(Path(corpus.ptbxl), partial, people)
    for number, header in enumerate(header for place in corpus.others for header in _headers(Path(place))):
        path = _copy_record(header, partial, subject=_OTHER_SUBJECT + number, study=_OTHER_STUDY + number)
        paths.append(path)
        people.append([_study_of(path), "", ""])
    with (partial / "record_list.csv").open("a", newline="") as stream:
        csv.writer(stream).writerows([_subject_of(path), _study_of(path), _study_of(path), "", path] for path in paths)
    write_csv(partial / "demographics.csv", ["study_id", "age", "gender"], people)
    os.rename(partial, tree)


def _add_ptbxl(source: Path, tree: Path, people: list[list[str]]) -> list[str]:
    """Copy PTB-XL's recordings at 500 Hz, write their superclasses, note age and sex in ``people``; their paths."""
    file = source / "ptbxl_database.csv"
    table = read_ptbxl(file)
    codes_of = dict(zip(table.key_choices[0], table.codes, strict=True))
    paths, labelled = [], []
    for _, row in Table(file).rows("ecg_id", "patient_id", "age", "sex", "filename_hr"):
        header = source / f"{row['filename_hr']}.hea"
        if not header.exists():
            continue
        subject, study = _PTBXL_SUBJECT + int(float(row["patient_id"])), _PTBXL_STUDY + int(row["ecg_id"])
        paths.append(_copy_record(header, tree, subject=subject, study=study))
        people.append([str(study), row["age"], {"0": "M", "1": "F"}.get(row["sex"], "")])
        codes = codes_of[header.stem]
        if codes is not None:
            labelled.append([str(study), *(str(int(name in codes)) for name in table.vocabulary)])
    if not paths:
        raise UsageError(f"{source}: none of the recordings that {file.name} lists at 500 Hz is there")
    write_csv(tree / "ptbxl_superclasses.csv", ["study_id", *table.vocabulary], labelled)
    return paths


def _headers(place: Path) -> list[Path]:
    found = sorted(place.rglob("*.hea"))
    if not found:
        raise UsageError(f"corpus.others: {place}: no WFDB header (*.hea) anywhere below")
    return found


def _copy_record(header: Path, tree: Path, *, subject: int, study: int) -> str:
    """Put a record into the tree under another name; its path there, without .hea.

    Raises UsageError where its signals are in more than one file.
    """
    path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = header.read_text().splitlines()
    signals = [line.split(maxsplit=1) for line in rest[: int(first.split()[1])]]
    if len({name for name, _ in signals}) != 1:
        raise UsageError(f"{header}: its signals are in more than one file; mixtures take records of one file")
    lines = [f"{study} {first.split(maxsplit=1)[1]}", *(f"{study}.dat {about}" for _, about in signals)]
    target.with_suffix(".hea").write_text("\n".join(lines) + "\n")
    shutil.copyfile(header.with_name(signals[0][0]), target.with_suffix(".dat"))
    return path


def _write_splits(corpus: CorpusConfig, tree: Path, out: Path, *, part: int) -> None:
    """Which split each record is in when PTB-XL part ``part`` is kept out of pretraining."""
    rows = []
    for _, row in Table(tree / "record_list.csv").rows("path"):
        path = row["path"]
        subject = _subject_of(path)
        if subject[0] == "1":
            split = SPLITS[split_of_subject(f"{corpus.seed}/{subject}", corpus.split_fractions)]
        elif subject[0] == "2":
            split = "test" if part_of_subject(corpus, subject) == part else "train"
        else:
            split = "train"
        rows.append([_study_of(path), split])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(out, ["study_id", "split"], rows)


def part_of_subject(corpus: CorpusConfig, subject: str) -> int:
    """The part of a PTB-XL patient: a hash, so that it never depends on who else is there."""
    return split_of_subject(f"part/{corpus.seed}/{subject}", [1 / corpus.parts] * corpus.parts)


def _subject_of(path: str) -> str:
    return path.split("/")[2][1:]


def _study_of(path: str) -> str:
    return path.rpartition("/")[2]
