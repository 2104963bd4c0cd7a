"""Places that cannot be packed into are one line, before any work; odd names of places change nothing."""

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import named
from lamae.cli.app import app
from lamae.sharding.format import ShardSet
from lamae.sharding.output import refuse_unfit
from lamae.sharding.pack import PackOptions, pack
from tests.sharding.packing import digests, rejects_of
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record


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


def test_a_packer_that_begins_while_another_looks_is_no_stranger(tmp_path, monkeypatch):
    out = tmp_path / "out"
    looked = []

    def begin_meanwhile(folder, **_):
        looked.append(folder)
        (folder / ".packing").mkdir(parents=True)
        raise UsageError(f"{folder}: not empty and no shard set")

    monkeypatch.setattr("lamae.sharding.output.refuse_foreign", begin_meanwhile)
    refuse_unfit(out, tmp_path / "source")
    assert looked == [out]


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


def test_plan_only_counts_what_packing_rejects_by_length_and_rate(tmp_path):
    for number in range(3):
        write_record(tmp_path / f"in/odd{number}", plausible_signal(MIMIC_LEADS, num_samples=9770), rate_hz=977)
        write_record(tmp_path / f"in/r{number}", plausible_signal(MIMIC_LEADS))
        write_record(tmp_path / f"in/long{number}", plausible_signal(MIMIC_LEADS, num_samples=9))
        header = tmp_path / f"in/long{number}.hea"
        header.write_text(header.read_text().replace("500 9", "500 524289"))

    def said(*options):
        done = CliRunner().invoke(app, ["shard", str(tmp_path / "in"), str(tmp_path / "out"), "--plan-only", *options])
        return " ".join(done.output.split()), done.exit_code

    text, code = said("--rate", "500", "--seconds", "2")
    assert code == 0
    assert "rejected: 6 of 9 (66.7%)" in text
    assert "3 longer than what is read of a record" in text
    assert "3 of a rate that makes no simple fraction with 500 Hz" in text
    pack(tmp_path / "in", tmp_path / "out", options=PackOptions(rate_hz=500.0, seconds=2.0))
    expected = {"odd": "wrong_rate", "long": "wrong_length"}
    assert rejects_of(tmp_path / "out") == {f"{k}{n}": why for k, why in expected.items() for n in range(3)}
    for path in [*(tmp_path / "in").glob("r*"), *(tmp_path / "in").glob("long*")]:
        path.unlink()
    with pytest.raises(UsageError, match=r"none of 3 headers .* 977 Hz cannot be resampled to 500; choose another"):
        pack(tmp_path / "in", tmp_path / "odd", options=PackOptions(rate_hz=500.0))


def test_the_folder_one_is_in_is_an_output_like_any(mimic, tmp_path, monkeypatch):
    (tmp_path / "here/below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/below")
    done = CliRunner().invoke(app, ["shard", str(mimic), "."], catch_exceptions=False)
    assert (done.exit_code, (tmp_path / "here/below-card.html").is_file()) == (0, True)
    assert ShardSet.open(Path()).num_records == 6
    for out in (".", ".."):
        assert named(Path(out)) == Path(out).resolve()
    assert named(Path("a/b")) == Path("a/b")
    (tmp_path / "tree").mkdir()
    monkeypatch.chdir(tmp_path / "tree")
    done = CliRunner().invoke(app, ["synth", ".", "--records", "4", "--subjects", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"lamae shard {tmp_path / 'tree'} {tmp_path / 'tree-shards'}" in " ".join(done.output.split())


def test_a_plan_of_which_nothing_was_packed_gives_way_to_another(mimic, tmp_path, caplog):
    runner, out = CliRunner(), str(tmp_path / "out")
    assert runner.invoke(app, ["shard", str(mimic), out, "--plan-only"], catch_exceptions=False).exit_code == 0
    done = runner.invoke(app, ["shard", str(mimic), out, "--rate", "250", "--no-card"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nothing is packed there yet, so it is planned anew" in caplog.text
    assert ShardSet.open(Path(out)).rate_hz == 250
