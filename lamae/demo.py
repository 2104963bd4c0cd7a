"""The whole way in one command, on synthetic ECGs: what a newcomer runs first.

    synth ─▶ shard ─▶ verify ─▶ labels ─▶ train (LAMAE, independent) ─▶ compare (both, random weights) ─▶ report

Every stage is the function behind the verb of the same name, on the same files. A stage whose result is there already
is not run again, so an interrupted demo goes on where it stopped.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamae import console
from lamae.base import files, processes
from lamae.base.errors import LamaeError
from lamae.base.leads import CHEST_LEADS, LIMB_LEADS
from lamae.base.outputs import make_or_resume
from lamae.base.progress import Progress
from lamae.base.rundirectory import RunDirectory
from lamae.sharding.format import MANIFEST_NAME, ShardSet
from lamae.sharding.sources import MIMIC_DIAGNOSES

if TYPE_CHECKING:  # imports torch, which takes a second, and the first stages do without
    from lamae.evaluate.reconstruct.reconstruction import Reconstruction

CONFIG = "configs/pretrain/tiny.yaml"
# A third of the subjects is kept for testing: the intervals of the comparison are over these.
SPLIT_FRACTIONS = [0.6, 0.1, 0.3]
RECORDS_PER_SUBJECT = 2.5
# Labels with fewer records than this share have intervals too wide to read.
MIN_PREVALENCE = 0.01
METHODS = {"LAMAE": "lamae", "independent leads": "independent"}
"""Kinds of model by the name that the reader sees; the first is compared with the others."""
NUM_SHOWN = 2
NUM_LOOKED_AT = 32
SETTINGS_NAME = "demo.json"
DONE_NAME = "done.json"
ROAD = "README.md: the road to MIMIC-IV-ECG and to a SLURM cluster"


@dataclass(frozen=True)
class Settings:
    """What a demo directory was made with."""

    num_records: int
    seed: int
    num_processes: int
    steps: int


class Paths:
    """Where everything lies; each path is there only once what it names is complete."""

    def __init__(self, out: Path) -> None:
        self.tree = out / "mimic-iv-ecg"
        self.shards = out / "shards"
        self.labels = out / "labels.zarr"
        self.verified = out / "verified.json"
        self.runs = {name: out / "runs" / kind for name, kind in METHODS.items()}
        self.embeddings = out / "embeddings"


class Stages:
    """Runs the stages in order under numbered headings, and keeps how long each took, interrupted attempts included."""

    def __init__(self, log: Path, *, count: int) -> None:
        self.log, self.count, self.number = log, count, 0
        self.seconds: dict[str, float] = files.read_json(log) if log.exists() else {}

    def run(self, title: str, result: Path, action: Callable[[Progress], None]) -> None:
        """Run ``action`` unless ``result`` exists, which it makes atomically, last."""
        self.number += 1
        console.hint(f"[{self.number}/{self.count}] {title}", style="bold")
        if result.exists():
            console.hint(f"      kept from before: {result}")
            return
        start, before = time.monotonic(), self.seconds.get(title, 0.0)
        try:
            with console.show_progress() as progress:
                action(progress)
        finally:
            self.seconds[title] = round(before + time.monotonic() - start, 1)
            files.write_json(self.log, self.seconds)
        console.hint(f"      {self.seconds[title]:.1f} s")


def run_demo(out: Path, *, num_records: int, seed: int, num_processes: int, steps: int) -> dict[str, Any]:
    """Run every stage below ``out`` and return what ``report.json`` holds.

    Raises UsageError when ``out`` holds something else, or a demo made with other settings.
    """
    settings = Settings(num_records, seed, num_processes, steps)
    _make_or_resume(out, settings)
    paths = Paths(out)
    stages = Stages(out / "stages.json", count=5 + len(METHODS))
    manifest = paths.shards / MANIFEST_NAME

    stages.run("synth: ECGs with diagnoses, as a MIMIC-IV-ECG tree", paths.tree, lambda p: _synth(paths, settings, p))
    stages.run("shard: quality control, splits by subject, tars", manifest, lambda p: _shard(paths, settings, p))
    stages.run("verify: every byte of the shard set", paths.verified, lambda p: _verify(paths, p))
    stages.run("labels: ICD-10 codes of every record", paths.labels, lambda _: _labels(paths, settings))
    for name, run in paths.runs.items():
        stages.run(
            _training_title(name, settings),
            run / DONE_NAME,
            lambda p, name=name: _train(name, paths, settings, p),  # type: ignore[misc]
        )
    report: dict[str, Any] = {}
    stages.run(
        "compare: embed, probe, reconstruct, report",
        out / "report.html",
        lambda p: report.update(_report(out, paths, settings, stages.seconds, p)),
    )
    report = report or files.read_json(out / "report.json")
    _print_summary(report, out)
    return report


def _make_or_resume(out: Path, settings: Settings) -> None:
    """Take ``out`` for this demo, or go on with the one that is there."""
    path, wanted = out / SETTINGS_NAME, dataclasses.asdict(settings)
    make_or_resume(out, what="demo", found=files.read_json(path) if path.exists() else None, wanted=wanted)
    files.write_json(path, wanted)


def _synth(paths: Paths, settings: Settings, progress: Progress) -> None:
    from lamae.sharding.synth import synthesize

    num_subjects = max(1, round(settings.num_records / RECORDS_PER_SUBJECT))
    synthesize(
        paths.tree,
        num_records=settings.num_records,
        num_subjects=num_subjects,
        seed=settings.seed,
        progress=progress,
    )


def _shard(paths: Paths, settings: Settings, progress: Progress) -> None:
    from lamae.sharding.options import PackOptions
    from lamae.sharding.pack import pack

    options = PackOptions(workers=settings.num_processes, shard_size=512, split_fractions=SPLIT_FRACTIONS)
    pack(paths.tree, paths.shards, options=options, progress=progress)


def _verify(paths: Paths, progress: Progress) -> None:
    from lamae.sharding.verify import verify

    problems = verify(paths.shards, progress=progress).problems
    if problems:
        raise LamaeError(f"{paths.shards}: {len(problems)} problems, the first: {problems[0]}")
    files.write_json(paths.verified, {"index_sha256": ShardSet.open(paths.shards).index_hash})


def _labels(paths: Paths, settings: Settings) -> None:
    from lamae.evaluate.labels.sources import build_labels

    report = build_labels(
        paths.shards,
        paths.labels,
        source="mimic-icd10",
        file=paths.tree / MIMIC_DIAGNOSES,
        min_count=max(2, round(MIN_PREVALENCE * settings.num_records)),
        distinct=True,
    )
    console.hint(f"      {report}")


def _training_title(name: str, settings: Settings) -> str:
    return f"train: {name}, DeepSpeed ZeRO 1, {settings.num_processes} processes"


def _train(name: str, paths: Paths, settings: Settings, progress: Progress) -> None:
    run = paths.runs[name]
    overrides = [
        f"run.dir={run}",
        f"data.path={paths.shards}",
        f"model.kind={METHODS[name]}",
        f"train.seed={settings.seed}",
        f"train.steps={settings.steps}",
    ]
    run.mkdir(parents=True, exist_ok=True)
    log = run / "train.log"

    before = _last_step(run)

    def show_step() -> None:
        # Until the first new row, the last one may be of steps that are taken again.
        if (step := _last_step(run)) != before:
            progress("train", step, settings.steps)

    code = processes.train_locally(
        CONFIG, overrides, num_processes=settings.num_processes, log_path=log, on_poll=show_step
    )
    processes.check_exit(code, log)
    show_step()
    files.write_json(run / DONE_NAME, {"steps": settings.steps})


def _last_step(run: Path) -> int:
    return int(RunDirectory(run).last_metrics().get("step", 0))


def _report(
    out: Path, paths: Paths, settings: Settings, seconds: dict[str, float], progress: Progress
) -> dict[str, Any]:
    """Compare the runs and write the report; its numbers."""
    import torch

    from lamae.evaluate.compare import compare
    from lamae.evaluate.reconstruct.reconstruction import reconstruct_records
    from lamae.reports.demo import AS_TRAINED, Demo, write_demo_report
    from lamae.reports.inspect import plot_row
    from lamae.sharding.synth.findings import AGE_SEX_CODE, FINDINGS, NULL_CODE, REASON_CODES
    from lamae.train.checkpoint.format import load_model

    start = time.monotonic()
    torch.set_num_threads(processes.usable_cores())
    shard_set = ShardSet.open(paths.shards)
    comparison = compare(
        paths.runs,
        shard_set,
        paths.labels,
        paths.embeddings,
        fractions=(),
        subsets={},
        masks={AS_TRAINED: None},
        progress=progress,
    )
    loaded = {name: load_model(run) for name, run in paths.runs.items()}
    first = next(iter(METHODS))
    test_rows = shard_set.rows_of_split("test")
    shown = test_rows[~shard_set.flagged_N[test_rows]][:NUM_LOOKED_AT]
    manifest = shard_set.manifest
    demo = Demo(
        dataset={
            "description": f"Synthetic 12-lead ECGs of seed {settings.seed}, written and read as a MIMIC-IV-ECG tree.",
            "num_records": shard_set.num_records,
            "num_subjects": manifest["num_subjects"],
            "splits": {name: count["records"] for name, count in manifest["splits"].items()},
            "rejects": manifest["rejects"],
        },
        runs={
            name: {
                "num_parameters": sum(parameter.numel() for parameter in loaded[name].model.parameters()),
                "steps": loaded[name].step,
                "wall_s": seconds[_training_title(name, settings)],
                "metrics": RunDirectory(run).read_metrics(),
            }
            for name, run in paths.runs.items()
        },
        recordings={
            (title := f"record {shard_set.keys[row]}"): plot_row(shard_set, row, title=title)
            for row in shown[:NUM_SHOWN].tolist()
        },
        examples=_one_of_each(reconstruct_records(loaded[first], shard_set, shown)),
        stages=seconds | {"compare and report": time.monotonic() - start},
        environment=_environment(paths.runs[first], settings),
        null_code=NULL_CODE,
        code_descriptions={finding.icd10: finding.name.replace("_", " ") for finding in FINDINGS}
        | dict.fromkeys(REASON_CODES, "why the ECG was taken: not in the waveform")
        | {AGE_SEX_CODE: "age and sex only", NULL_CODE: "not in the waveform"},
        next_steps=next_steps(),
    )
    return write_demo_report(comparison, demo, out)


def _one_of_each(reconstructions: "Sequence[Reconstruction]") -> "list[Reconstruction]":
    """The first record with hidden chest leads and the first with hidden limb leads, in that order."""
    chest = [example for example in reconstructions if example.predicted_LT[list(CHEST_LEADS)].all(1).any()]
    limb = [example for example in reconstructions if example.predicted_LT[list(LIMB_LEADS)].all()]
    return [*chest[:1], *limb[:1]]


def _environment(run: Path, settings: Settings) -> dict[str, str]:
    """What it takes to run this again, from the run's own manifest."""
    manifest = RunDirectory(run).read_manifest()
    machine, versions = manifest["machine"], manifest["versions"]
    return {
        "command": f"lamae demo --records {settings.num_records} --seed {settings.seed} "
        f"--steps {settings.steps} --processes {settings.num_processes}",
        "device": f"{machine['device']}, {machine['cores']} cores, {machine['world_size']} processes x "
        f"{machine['threads_per_rank']} threads",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "configuration": f"{CONFIG}, hash {manifest['config_hash']}",
    }


def next_steps() -> tuple[str, ...]:
    """What to try after the demo, with a model that this machine can train."""
    import torch

    size = "small" if torch.cuda.is_available() else "tiny"
    train = f"lamae train {size} run.dir=RUN data.path=SHARDS"
    return (f"your own recordings: lamae shard SOURCE SHARDS, then {train}", ROAD)


def _print_summary(report: dict[str, Any], out: Path) -> None:
    console.say()
    for claim in report["claims"]:
        console.say(f"{claim['verdict']}: {claim['statement']}. {claim['evidence']}")
    console.say(f"\nlook at: {out / 'report.html'}")
    console.hint(f"curves:  tensorboard --logdir {out / 'runs'}")
    for step in next_steps():
        console.hint(f"next:    {step}")
