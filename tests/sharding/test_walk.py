"""Whatever holds the records, a tree with links or a zip, none is lost without a word and none is taken twice."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding import walk
from lamae.sharding.format import ShardSet
from lamae.sharding.keys import keys_of
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.walk import paths_below
from tests.sharding.packing import digests
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write_record(root / name, plausible_signal(MIMIC_LEADS, seed=number))
    return root


def keys_in(out: Path) -> list[str]:
    return ShardSet.open(out).keys


def make_zip(tree: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tree.rglob("*")):
            archive.write(file, top + file.relative_to(tree).as_posix())
    return path


def test_linked_folders_are_followed_once_and_circles_left_out(tmp_path, caplog):
    root = write(tmp_path / "root", "a/x")
    write(tmp_path / "elsewhere/b", "y", "deep/z")
    write(root, ".store/c/w")
    (root / "b").symlink_to(tmp_path / "elsewhere/b")
    (root / "c").symlink_to(root / ".store/c")  # the folder itself is hidden, the link to it is not
    (root / "b2").symlink_to(tmp_path / "elsewhere/b/deep")
    (root / "a/loop").symlink_to(root)
    (tmp_path / "elsewhere/b/up").symlink_to(tmp_path / "elsewhere")
    (root / "gone").symlink_to(tmp_path / "unmounted")
    with caplog.at_level(logging.WARNING):
        found = sorted(path for path in paths_below(root) if path.endswith(".hea"))
    assert found == ["a/x.hea", "b/deep/z.hea", "b/y.hea", "c/w.hea"]
    assert "a/loop: left out, a link to" in caplog.text
    assert "b2: left out, a link to" in caplog.text
    assert "1 links lead nowhere, such as gone" in caplog.text


def test_a_link_to_a_folder_around_the_root_lists_nothing_twice(tmp_path):
    root = write(tmp_path / "root", "x")
    write(tmp_path, "other/y")
    (root / "up").symlink_to(tmp_path)
    assert sorted(path for path in paths_below(root) if path.endswith(".hea")) == ["up/other/y.hea", "x.hea"]


def test_a_folder_that_cannot_be_listed_ends_the_command_with_its_name(tmp_path, monkeypatch):
    root = write(tmp_path / "root", "a/x", "b/y")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    with pytest.raises(LamaeError, match=r"root/b: cannot be listed \(Permission denied\)"):
        pack(root, tmp_path / "out", options=PackOptions())
    assert not (tmp_path / "out").exists()


def test_what_a_mac_or_git_leaves_behind_is_no_record(tmp_path):
    plain = write(tmp_path / "plain/set", "a/x", "y")
    littered = shutil.copytree(tmp_path / "plain", tmp_path / "littered")
    for copy in ("set/._y", "set/.git/a/x", "set/a/.ipynb_checkpoints/x", "__MACOSX/set/a/._x", "lost+found/q"):
        write(littered, copy)
    pack(plain, tmp_path / "from_plain", options=PackOptions())
    pack(littered, tmp_path / "from_littered", options=PackOptions())
    pack(make_zip(littered, tmp_path / "littered.zip"), tmp_path / "from_zip", options=PackOptions())
    assert keys_in(tmp_path / "from_plain") == ["x", "y"]
    assert digests(tmp_path / "from_plain") == digests(tmp_path / "from_littered") == digests(tmp_path / "from_zip")


@pytest.mark.parametrize("names", [("x", "y"), ("one/x", "one/y"), ("one/two/a/x", "one/two/b/x")])
def test_folders_around_the_records_change_nothing(tmp_path, names):
    """The same bytes from the tree, from a folder around it, and from zips of both."""
    write(tmp_path / "around/it/tree", *names)
    tree = tmp_path / "around/it/tree"
    sources = [tree, tmp_path / "around", make_zip(tree, tmp_path / "a.zip")]
    sources.append(make_zip(tree, tmp_path / "b.zip", "some/folder/"))
    for number, source in enumerate(sources):
        pack(source, tmp_path / f"out{number}", options=PackOptions())
        assert digests(tmp_path / f"out{number}") == digests(tmp_path / "out0")


def test_a_packing_goes_on_from_a_folder_around_its_source(tmp_path):
    write(tmp_path / "around/tree", "a/x", "b/y")
    options = PackOptions(shard_size=1)
    pack(tmp_path / "around", tmp_path / "whole", options=options)
    from lamae.sharding.pack import pack_part, plan

    plan(tmp_path / "around/tree", tmp_path / "out", options=options)
    pack_part(tmp_path / "around/tree", tmp_path / "out", 0)
    pack(tmp_path / "around", tmp_path / "out", options=options)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize("name", [b"s\xfcd", b"a\rb", b"a\nb", b'q"u,o'])
def test_names_that_no_csv_likes_are_packed(tmp_path, name):
    root = write(tmp_path / "tree", "plain", "odd")
    odd = os.fsencode(root) + b"/" + name
    text = (root / "odd.hea").read_bytes().replace(b"odd.dat", name + b".dat").replace(b"odd 12", name + b" 12")
    Path(os.fsdecode(odd + b".hea")).write_bytes(text)
    (root / "odd.dat").rename(os.fsdecode(odd + b".dat"))
    (root / "odd.hea").unlink()
    manifest = pack(root, tmp_path / "out", options=PackOptions())
    rejects = (tmp_path / "out/rejects.csv").read_text()
    assert manifest["num_records"] + sum(manifest["rejects"].values()) == 2
    assert manifest["num_records"] == 2 or keys_of([os.fsdecode(name)])[0] in rejects


def test_no_crafted_name_gives_two_records_one_key():
    paths = ["a/b__c/x", "a__b/c/x", "a/b/c__x", "x", "ü", "ö", "y" * 120, "y" * 120 + "z"]
    keys = keys_of(paths)
    # Names made from the keys that others got, so that these meet somebody, whatever is appended to tell them apart.
    for _ in range(4):
        paths = sorted({*paths, *keys, *(f"q/{key}" for key in keys)})
        keys = keys_of(paths)
        assert len(set(keys)) == len(paths)
        assert max(map(len, keys)) <= 90
    assert dict(zip(paths, keys, strict=True)) == dict(zip(paths[::-1], keys_of(paths[::-1]), strict=True))


def test_headers_in_capitals_are_named(tmp_path):
    root = write(tmp_path / "tree", "x", "y")
    (root / "y.hea").rename(root / "y.HEA")
    with pytest.raises(UsageError, match=r"1 files such as y\.HEA end in \.HEA"):
        pack(root, tmp_path / "out", options=PackOptions())
