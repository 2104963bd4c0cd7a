"""Places that cannot be packed into are one line, before any work; odd names of places change nothing."""

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamae.base.errors import LamaeError, UsageError
from lamae.cli.app import app
from lamae.sharding.format import ShardSet
from lamae.sharding.pack import PackOptions, pack
from tests.sharding.packing import digests
from tests.sharding.wfdbtree import write_mimic_tree


@pytest.fixture
def mimic(tmp_path):
    write_mimic_tree(tmp_path / "mimic", num_subjects=3)
    return tmp_path / "mimic"


def test_a_link_that_leads_nowhere_is_no_output(mimic, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UsageError, match=r"out: a link to .*unmounted, which does not exist"):
        pack(mimic, tmp_path / "out", options=PackOptions())
    (tmp_path / "unmounted").mkdir()
    assert pack(mimic, tmp_path / "out", options=PackOptions())["num_records"] == 6


def test_files_and_places_below_files_are_no_output(mimic, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="exists and is no directory"):
        pack(mimic, tmp_path / "file", options=PackOptions())
    with pytest.raises(LamaeError, match=r"cannot write the plan \(Not a directory\)"):
        pack(mimic, tmp_path / "file/out", options=PackOptions())
    with pytest.raises(UsageError, match="source and output are the same"):
        pack(mimic, mimic / ".." / "mimic", options=PackOptions())
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("operation", ["mkdir", "rename"])
def test_a_disk_that_takes_no_plan_is_one_line_and_the_same_command_goes_on(
    mimic, tmp_path, monkeypatch, number, operation
):
    with monkeypatch.context() as patch:

        def refuse(path, *_args, **_options):
            raise OSError(number, os.strerror(number), str(path))

        patch.setattr(os, operation, refuse)
        with pytest.raises(LamaeError, match=f"cannot write the plan \\({os.strerror(number)}\\)"):
            pack(mimic, tmp_path / "out", options=PackOptions())
    pack(mimic, tmp_path / "out", options=PackOptions())
    pack(mimic, tmp_path / "other", options=PackOptions())
    assert digests(tmp_path / "out") == digests(tmp_path / "other")


def test_brackets_in_a_path_are_a_path(mimic, tmp_path):
    odd = mimic.rename(tmp_path / "[red]a :smile:")
    out = tmp_path / "[/out]"
    done = CliRunner().invoke(app, ["shard", str(odd), str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"next: lamae verify {out}" in done.output


def test_a_card_that_cannot_be_written_leaves_a_sound_set_and_says_so(mimic, tmp_path):
    (tmp_path / "out-card.html").mkdir()
    done = CliRunner().invoke(app, ["shard", str(mimic), str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "out-card.html: cannot be written" in done.output
    assert (tmp_path / "out/dataset.json").is_file()


def test_plan_only_prints_what_is_there_and_packs_nothing(mimic, tmp_path):
    done = CliRunner().invoke(app, ["shard", str(mimic), str(tmp_path / "out"), "--plan-only"], catch_exceptions=False)
    assert "kind:              mimic: record_list.csv" in done.output
    assert "patients:          3, named by paths or headers; splits by patient" in done.output
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_plan_of_which_nothing_was_packed_gives_way_to_another(mimic, tmp_path, caplog):
    runner, out = CliRunner(), str(tmp_path / "out")
    assert runner.invoke(app, ["shard", str(mimic), out, "--plan-only"], catch_exceptions=False).exit_code == 0
    done = runner.invoke(app, ["shard", str(mimic), out, "--rate", "250", "--no-card"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nothing is packed there yet, so it is planned anew" in caplog.text
    assert ShardSet.open(Path(out)).rate_hz == 250
