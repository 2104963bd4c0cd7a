"""Shards packed one by one, anywhere: of the source and by the options that were planned, or not at all."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from lamae.base.errors import UsageError
from lamae.cli.app import app
from lamae.sharding.pack import merge, pack, pack_part, plan
from lamae.sharding.part import is_done
from tests.sharding.packing import digests, rejects_of, small
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def shard(*arguments: object):
    return CliRunner().invoke(app, ["shard", *map(str, arguments)])


def test_another_copy_of_the_source_than_the_planned_one_is_refused_with_the_record(mimic, tmp_path):
    planned = plan(mimic, tmp_path / "out", options=small())
    shutil.copytree(mimic, tmp_path / "copy")
    first = planned.entries(1)[0].path
    write_record(tmp_path / "copy" / planned.base / first, plausible_signal(MIMIC_LEADS, seed=99))
    pack_part(tmp_path / "copy", tmp_path / "out", 0)
    with pytest.raises(UsageError, match=rf"copy: {first}\.hea, of shard 1, is not what it was .* give the source"):
        pack_part(tmp_path / "copy", tmp_path / "out", 1)
    assert not is_done(planned, 1)
    for part in (1, 2):
        pack_part(mimic, tmp_path / "out", part)
    merge(tmp_path / "out")
    pack(mimic, tmp_path / "out", options=small())
    pack(mimic, tmp_path / "whole", options=small())
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_header_that_is_gone_since_the_plan_is_a_reject_like_any_other(mimic, tmp_path):
    planned = plan(mimic, tmp_path / "out", options=small())
    first = planned.entries(0)[0]
    (mimic / planned.base / f"{first.path}.hea").unlink()
    for part in range(planned.num_parts):
        pack_part(mimic, tmp_path / "out", part)
    merge(tmp_path / "out")
    assert rejects_of(tmp_path / "out") == {first.key: "missing_file"}


def test_a_plan_of_a_version_that_kept_no_sums_of_headers_is_packed(mimic, tmp_path):
    plan(mimic, tmp_path / "out", options=small())
    path = tmp_path / "out/.packing/plan.json"
    content = json.loads(path.read_text())
    assert [len(sums) for sums in content.pop("header_sums")] == [1, 1, 1]
    path.write_text(json.dumps(content))
    pack(mimic, tmp_path / "out", options=small())
    pack(mimic, tmp_path / "whole", options=small())
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_another_folder_around_the_records_keeps_the_sums_of_their_headers(mimic, tmp_path):
    plan(mimic, tmp_path / "out", options=small())
    path = tmp_path / "out/.packing/plan.json"
    before = json.loads(path.read_text())
    plan(tmp_path, tmp_path / "out", options=small())
    after = json.loads(path.read_text())
    assert before["base"] != after["base"]
    assert before | {"base": after["base"]} == after


def test_options_beside_parts_are_those_of_the_plan_or_none(mimic, tmp_path):
    out, folds = tmp_path / "out", tmp_path / "folds.csv"
    keys = [path.stem for path in mimic.rglob("*.hea")]
    folds.write_text("key,split\n" + "".join(f"{key},train\n" for key in keys))
    given = ("--shard-size", 5, "--splits-from", folds, "--rate", 250, "quality.flat=reject")
    assert shard(mimic, out, *given, "--plan-only").exit_code == 0
    assert shard(mimic, out, *given, "--parts", "0/3").exit_code == 0
    assert shard(mimic, out, "--parts", "1/3").exit_code == 0
    folds.write_text("key,split\n" + "".join(f"{key},test\n" for key in keys))
    for other, words in {
        ("--rate", "100"): "options.rate_hz: 250.0 -> 100.0",
        ("--seconds", "1"): "options.seconds: None -> 1.0",
        ("quality.flat=flag",): "options.quality.flat: reject -> flag",
        ("--splits-from", folds): "splits_from is another file",
    }.items():
        done = shard(mimic, out, *other, "--parts", "2/3")
        assert done.exit_code != 0
        assert f"planned with other options ({words}); give those of the plan, or none" in str(done.exception)
    assert shard(mimic, out, "--parts", "2/3").exit_code == 0
