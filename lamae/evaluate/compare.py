"""Several models on the same records: everything a comparison report shows, computed once.

    runs ──embed──▶ stores in WORK ──probe──▶ AUROC, paired differences, few-label curves, lead robustness
      └──reconstruct under several masks──▶ errors beside trivial predictors

Reference rows: the first run's architecture with random weights, and whatever stores the caller adds (other people's
embeddings, age and sex alone). Embeddings already in WORK are taken as they are if they are of the same weights, leads
and rows and belong to the shard set.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lamae.base import files
from lamae.base.errors import UsageError
from lamae.base.leads import LEADS, LIMB_LEADS
from lamae.base.progress import Progress, ignore
from lamae.base.text import slug
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import (
    embed,
    read_embeddings,
    read_lead_weights,
    rows_hash,
    subject_numbers,
    weights_hash,
)
from lamae.evaluate.embeddings.inference import load_for_inference
from lamae.evaluate.finetune.finetune import read_finetuned
from lamae.evaluate.labels.store import Labels, read_labels
from lamae.evaluate.probe.fewlabels import FRACTIONS, NUM_SEEDS, FewLabelCurve, distinct_fractions, few_label_curve
from lamae.evaluate.probe.fit import probe_arrays
from lamae.evaluate.probe.result import ProbeResult
from lamae.evaluate.reconstruct.reconstruction import ReconstructionErrors, reconstruction_errors, spread
from lamae.model.config import MaskConfig
from lamae.sharding.format import ShardSet, lead_mask_to_bool

RANDOM_WEIGHTS = "random weights"
# What the model is shown at test time, having been probed with all twelve leads.
LEAD_SUBSETS: dict[str, tuple[int, ...]] = {
    "12 leads": tuple(range(12)),
    "limb leads": LIMB_LEADS,
    "I, II, V2": (0, 1, LEADS.index("V2")),
    "I, II": (0, 1),
    "I": (0,),
}
MASKS: dict[str, MaskConfig] = {
    "grid": MaskConfig(kind="grid"),
    "whole leads": MaskConfig(kind="lead"),
    "one span in every lead": MaskConfig(kind="time"),
    "random patches": MaskConfig(kind="random", ratio=0.5),
}
MAX_RECONSTRUCTED = 400
READOUTS = ("record", "mean")


@dataclass(frozen=True)
class Comparison:
    """Results by method, the first being the one that the others are compared with."""

    num_records: int
    protocol: str
    probes: dict[str, dict[str, ProbeResult]]
    """Read-out to method to probe; "mean" lacks methods that have one embedding only."""
    knn: dict[str, ProbeResult]
    curves: dict[str, FewLabelCurve]
    robustness: dict[str, dict[str, ProbeResult]]
    """Method to lead subset to the probe fitted on twelve leads and tested on the subset."""
    reconstruction: dict[str, dict[str, ReconstructionErrors]]
    """Kind of mask to run to errors."""
    lead_weights: dict[str, np.ndarray]
    """Run to [N, 12]: what each lead weighs in the record embedding of the test records."""
    finetuned: dict[str, ProbeResult]
    """Results of fine-tuning on the same labels, or of supervised training from scratch, by name."""

    @property
    def first(self) -> ProbeResult:
        """What the others are compared with, by its own read-out."""
        return next(iter(self.probes["record"].values()))

    @property
    def others(self) -> dict[str, ProbeResult]:
        """All but the first, by their own read-out."""
        return {name: result for name, result in self.probes["record"].items() if result is not self.first}


def compare(
    runs: Mapping[str, Path],
    shards: Path | ShardSet,
    labels: Path,
    work: Path,
    *,
    stores: Mapping[str, Path] | None = None,
    finetuned: Mapping[str, Path] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    num_seeds: int = NUM_SEEDS,
    subsets: Mapping[str, tuple[int, ...]] = LEAD_SUBSETS,
    masks: Mapping[str, MaskConfig | None] = MASKS,
    transductive: bool = False,
    device: str = "cpu",
    progress: Progress = ignore,
) -> Comparison:
    """Compare ``runs`` (name to run directory or checkpoint), ``stores`` (name to embeddings) beside them, and
    ``finetuned`` (name to what ``lamae finetune`` made).

    Embeddings are kept in ``work``. ``masks`` hide what is reconstructed; None hides as a run was trained. Raises
    UsageError when runs, labels or stores do not fit the shard set, when two have one name, or when test subjects were
    in a run's pretraining and ``transductive`` is false.
    """
    if not runs:
        raise UsageError("nothing to compare: name at least one run")
    refuse_repeated([*runs, RANDOM_WEIGHTS, *(stores or {}), *(finetuned or {})])
    shard_set = ShardSet.open(shards)
    truth = read_labels(labels)
    store.require_same_rows(labels, truth.index_hash, shard_set.root, shard_set.index_hash)
    subject_N = subject_numbers(shard_set)
    tuned = {name: read_finetuned(path, truth, subject_N) for name, path in (finetuned or {}).items()}
    embedder = _Embedder(shard_set, work, device, progress)
    for run in runs.values():  # all of them before the first takes hours
        embedder.model(run)
    paths = {name: embedder.path(name, run) for name, run in runs.items()}
    first = next(iter(runs))
    paths[RANDOM_WEIGHTS] = embedder.path(RANDOM_WEIGHTS, runs[first], random_weights=True)
    paths |= {name: Path(path) for name, path in (stores or {}).items()}
    for path in paths.values():
        found = str(store.open_store(path, kind="embeddings").attrs["index_sha256"])
        store.require_same_rows(path, found, shard_set.root, shard_set.index_hash)

    options = {"transductive": transductive, "device": device}
    probes: dict[str, dict[str, ProbeResult]] = {readout: {} for readout in READOUTS}
    knn, curves, fractions = {}, {}, distinct_fractions(subject_N, truth, fractions)
    for number, (name, path) in enumerate(paths.items()):
        for readout in READOUTS:
            if readout in store.open_store(path, kind="embeddings"):
                features = dataclasses.replace(read_embeddings(path, readout=readout), name=name)
                probes[readout][name] = probe_arrays(features, truth, **options)  # type: ignore[arg-type]
        features = dataclasses.replace(read_embeddings(path), name=name)
        knn[name] = probe_arrays(features, truth, method="knn", **options)  # type: ignore[arg-type]
        curves[name] = few_label_curve(
            features, truth, fractions=fractions, num_seeds=num_seeds, transductive=transductive
        )
        progress("probe", number + 1, len(paths))
    robustness = {
        name: _lead_robustness(embedder, name, run, truth, subsets, transductive=transductive)
        for name, run in runs.items()
    }
    test_rows = probes["record"][first].test_rows
    return Comparison(
        num_records=shard_set.num_records,
        protocol=truth.protocol,
        probes=probes,
        knn=knn,
        curves=curves,
        robustness=robustness,
        reconstruction=_reconstruct(runs, shard_set, test_rows, masks, device, progress),
        lead_weights={name: read_lead_weights(paths[name], rows=test_rows) for name in runs},
        finetuned={name: dataclasses.replace(result, name=name) for name, result in tuned.items()},
    )


def refuse_repeated(names: Sequence[str]) -> None:
    """Raises UsageError where two rows of a comparison would have the same name: one would stand for both."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(
            f"two rows of the comparison would be named {repeated[0]!r}; give another NAME with --store or "
            "--finetuned, or rename the run's directory"
        )


@dataclass
class _Embedder:
    shard_set: ShardSet
    work: Path
    device: str
    progress: Progress
    _models: dict[tuple[Path, bool], tuple[str, str]] = field(default_factory=dict)

    def model(self, run: Path, *, random_weights: bool = False) -> tuple[str, str]:
        """Hashes of a run's weights, which are read once, and of how it reads a signal."""
        if (run, random_weights) not in self._models:
            loaded, model, transform = load_for_inference(run, self.shard_set, random_weights=random_weights)
            reads = files.json_sha256([dataclasses.asdict(loaded.config.signal), transform.num_samples])
            self._models[run, random_weights] = weights_hash(model), reads[:8]
        return self._models[run, random_weights]

    def path(
        self,
        name: str,
        run: Path,
        *,
        random_weights: bool = False,
        leads: tuple[int, ...] | None = None,
        rows: np.ndarray | None = None,
    ) -> Path:
        """Where these embeddings are, after making them if need be. Other weights, ways to read a signal, leads or rows
        have another name."""
        weights, reads = self.model(run, random_weights=random_weights)
        suffix = "" if leads is None else "-" + "-".join(LEADS[lead] for lead in leads)
        chosen = "" if rows is None else f"-{rows_hash(rows)[:16]}"
        path = self.work / f"{slug(name)}-{weights}-{reads}{suffix}{chosen}.zarr"
        if not path.exists():
            embed(
                run,
                self.shard_set,
                path,
                random_weights=random_weights,
                leads=leads,
                rows=rows,
                device=self.device,
                progress=lambda _, done, total: self.progress(f"embed {name}{suffix}", done, total),
            )
            if store.open_store(path, kind="embeddings").attrs["weights_hash"] != weights:
                shutil.rmtree(path)
                raise UsageError(
                    f"{run}: trains on meanwhile; compare one of its checkpoints, {run}/checkpoints/step-…"
                )
        return path


def _lead_robustness(
    embedder: _Embedder,
    name: str,
    run: Path,
    truth: Labels,
    subsets: Mapping[str, tuple[int, ...]],
    *,
    transductive: bool,
) -> dict[str, ProbeResult]:
    """By subset of which a test record has a lead: the probe as fitted on all leads, tested on the subset."""
    whole = read_embeddings(embedder.path(name, run))
    test_rows = truth.rows("test")
    recorded_L = np.any(lead_mask_to_bool(embedder.shard_set.column("lead_mask")[test_rows]), axis=0)
    found = {}
    for subset, leads in subsets.items():
        if not recorded_L[list(leads)].any():
            continue
        x_ND = whole.x_ND
        if len(leads) < len(LEADS):
            reduced = read_embeddings(embedder.path(name, run, leads=tuple(leads), rows=test_rows))
            x_ND = x_ND.copy()
            # A record that has none of these leads shows nothing: it counts as the average of what train shows.
            shown = test_rows[reduced.embedded_N[test_rows]]
            x_ND[test_rows] = x_ND[truth.rows("train")].mean(0)
            x_ND[shown] = reduced.x_ND[shown]
        features = dataclasses.replace(whole, x_ND=x_ND, name=f"{name}, {subset}")
        found[subset] = probe_arrays(features, truth, transductive=transductive)
    return found


def _reconstruct(
    runs: Mapping[str, Path],
    shard_set: ShardSet,
    test_rows: np.ndarray,
    masks: Mapping[str, MaskConfig | None],
    device: str,
    progress: Progress,
) -> dict[str, dict[str, ReconstructionErrors]]:
    rows = spread(test_rows, MAX_RECONSTRUCTED)
    found: dict[str, dict[str, ReconstructionErrors]] = {kind: {} for kind in masks}
    for name, run in runs.items():
        loaded, _, _ = load_for_inference(run, shard_set, device=device)
        for kind, mask in masks.items():
            found[kind][name] = reconstruction_errors(
                loaded,
                shard_set,
                rows,
                mask=mask,
                device=device,
                progress=lambda _, done, total, what=f"{name}, {kind}": progress(f"reconstruct {what}", done, total),  # type: ignore[misc]
            )
    return found
