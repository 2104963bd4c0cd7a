"""Codes that lack one of their classes where a study fits, chooses or scores."""

import pytest

from lamae.evaluate.labels.sources import build_labels
from lamae.sharding.format import ShardSet


@pytest.fixture
def write_labels(corpus, tmp_path):
    """``write_labels(CODE={"train", "test"})``: codes that every second record of these splits has, and no other."""

    def write(**splits_of_code):
        shard_set = ShardSet.open(corpus["shards"])
        split_N = [("train", "val", "test")[number] for number in shard_set.column("split")]
        rows = [
            ",".join([key, *(str(int(split in splits and row % 2)) for splits in splits_of_code.values())])
            for row, (key, split) in enumerate(zip(shard_set.keys, split_N, strict=True))
        ]
        (tmp_path / "own.csv").write_text("\n".join([",".join(["key", *splits_of_code]), *rows]) + "\n")
        build_labels(corpus["shards"], tmp_path / "own.zarr", source="csv", file=tmp_path / "own.csv", min_count=1)
        return f"{{labels: {tmp_path / 'own.zarr'}}}"

    return write


def test_a_study_reports_codes_that_no_average_holds(lamae, write_plan, write_labels, tmp_path, caplog):
    labels = write_labels(WHOLE={"train", "val", "test"}, UNFITTED={"val", "test"}, UNTESTED={"train", "val"})
    plan = write_plan(f"tasks.splits={labels}", "seeds=[0]", "sweep={}")
    code, _, error = lamae("study", plan, "--out", tmp_path / "study", "--workers", 0)
    assert code == 0, error
    left_out = "UNFITTED (no positive record in train), UNTESTED (no positive record in test)"
    assert f"tasks.splits, part 1 of 1: left out of averages: {left_out}" in caplog.text
    assert "in no mean while others have one: UNFITTED, UNTESTED." in (tmp_path / "study/report.md").read_text()
    assert "(of splits, patients over subjects alone, for" in (tmp_path / "study/report.md").read_text()


def test_a_search_that_cannot_choose_is_refused_before_it_trains(lamae, write_plan, write_labels, tmp_path):
    labels = write_labels(CODE={"train", "test"}).rstrip("}")
    plan = write_plan(f"tasks={{patients: {labels}, protocol: patients, folds: 3}}}}")  # itself without need of val
    code, _, error = lamae("study", plan, "--out", tmp_path / "study", "--workers", 0)
    assert code == 2
    assert "the search: no code has both classes in the 12 val records, so the best setting cannot be chosen" in error
    assert not list((tmp_path / "study").glob("runs/*"))
