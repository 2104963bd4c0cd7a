"""The runs of a plan: what differs in any setting is another run."""

from dataclasses import replace

from lamae.study.plan import load_plan
from lamae.study.runs import BASE, RECORDS, Setting, configure, final_runs, mask_runs, sweep_runs


def test_a_change_anywhere_in_the_configuration_is_a_run_of_its_own(write_plan):
    plan = load_plan(write_plan())
    changes = {
        "rate": ["signal.rate_hz=50"],
        "crop": ["signal.seconds=2.5"],
        "batch": ["train.global_batch_size=2"],
        "precision": ["engine.precision=fp32"],
        "threads": ["data.threads=3"],
    }
    names = {key: run.name for key, run in sweep_runs(replace(plan, sweep=changes), 1e-3).items() if key[1] == 0}
    assert len(set(names.values())) == len(changes) + 1
    again = sweep_runs(replace(plan, sweep={"the same": []}), 1e-3)
    assert again["the same", 0].name == again[BASE, 0].name == names[BASE, 0]


def test_a_method_may_have_a_mask_of_its_own(write_plan):
    plan = load_plan(
        write_plan(
            "methods={lamae: [model.kind=lamae], timed: [mask.kind=time]}",
            "masks={grid: [mask.kind=grid], random: [mask.kind=random]}",
        )
    )
    choices = {method: Setting(method, "grid", 1e-3) for method in plan.methods}
    runs = final_runs(plan, choices, first_lr=1e-3)[RECORDS]
    kinds = {method: configure(plan, runs[method, 0].overrides).mask.kind for method in plan.methods}
    assert kinds == {"lamae": "grid", "timed": "time"}
    tried = mask_runs(plan, {method: [1e-3] for method in plan.methods})
    assert {setting.method for setting in tried} == {"lamae"}, "there is no other mask to try"
