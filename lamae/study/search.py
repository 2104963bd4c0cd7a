"""Each method's learning rate and mask, chosen on validation data alone."""

from collections.abc import Callable, Iterable, Mapping

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import PRETRAINED, Embeddings, read_embeddings
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.methods import fit_rows
from lamae.study import runs as run_lists
from lamae.study.corpus import Part, views
from lamae.study.directory import StudyDirectory
from lamae.study.plan import StudyPlan, TaskConfig
from lamae.study.runs import Run, Setting
from lamae.study.scoring import require_labels_of, rows_of_splits

READOUT = "mean"  # common to all methods

Execute = Callable[[str, Iterable[Run]], None]
"""Does the runs of a stage."""


def search(
    plan: StudyPlan, study: StudyDirectory, parts: list[Part], execute: Execute
) -> tuple[dict[Setting, float], dict[str, Setting], float]:
    """Val scores of every setting tried; each method's choice; the first method's rate under the first mask."""
    task, (view, _) = plan.search_task, views(plan, plan.search_task_name, parts[0])

    def scores_of(runs: Mapping[Setting, Run]) -> dict[Setting, float]:
        return {
            setting: val_score(
                parts[run.part].truth_of(plan.search_task_name, task),
                read_embeddings(study.embeddings(run.name, view.name), readout=READOUT),
                task,
            )
            for setting, run in runs.items()
        }

    by_rate = run_lists.learning_rate_runs(plan)
    execute("search: learning rates", by_rate.values())
    scores = scores_of(by_rate)
    best_rates = {
        method: [setting.lr for setting in ranked(scores, method)[: plan.search.rates_per_mask]]
        for method in plan.methods
    }
    by_mask = run_lists.mask_runs(plan, best_rates)
    execute("search: masks", by_mask.values())
    scores |= scores_of(by_mask)
    choices = {method: ranked(scores, method)[0] for method in plan.methods}
    return scores, choices, best_rates[plan.first_method][0]


def ranked(scores: Mapping[Setting, float], method: str) -> list[Setting]:
    """The method's settings, the best score first; of equals the first tried."""
    return sorted((setting for setting in scores if setting.method == method), key=lambda setting: -scores[setting])


def val_score(truth: Labels, features: Embeddings, task: TaskConfig) -> float:
    """Macro AUROC on the val split, of a probe fitted on the train split under the best C."""
    require_labels_of(features, truth)
    rows = {split: of[features.embedded_N[of]] for split, of in rows_of_splits(truth, task).items() if split != "test"}
    # The search never scores test records: val takes their place in the call.
    rows["test"] = rows["val"]
    if (features.pretrained_N[rows["val"]] == PRETRAINED).any():
        raise UsageError(f"{features.name}: subjects of val were in pretraining; the search cannot choose by them")
    fit = fit_rows(features.x_ND, truth.label_NC[:, task.columns(truth.codes)], rows)
    return fit.val_macro[fit.setting]
