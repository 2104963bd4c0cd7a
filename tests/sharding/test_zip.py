"""A zip is packed in place: the same bytes as from the tree, whatever its shape; damage is a reject or one line."""

import os
import struct
import zipfile
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding.files import ZipFiles, open_files
from lamae.sharding.pack import PackOptions, pack, pack_part, plan
from lamae.sharding.zipindex import ZipIndex
from tests.sharding.packing import digests, rejects_of
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record


@pytest.fixture
def tree(tmp_path):
    write_mimic_tree(tmp_path / "tree")
    odd = write_record(tmp_path / "tree/files/p1999/p19990000/s1/1", plausible_signal(MIMIC_LEADS), comments=["x"])
    header = odd.with_name("1.hea")
    header.write_text(header.read_text().replace("200.0(0)", "200(0)").replace("/mV", ""))  # a header for stock wfdb
    return tmp_path / "tree"


def make_zip(tree: Path, path: Path, *, prefix: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(tree.rglob("*"), reverse=True):
            archive.write(file, prefix + file.relative_to(tree).as_posix())
    return path


@pytest.mark.parametrize(
    ("prefix", "compression"), [("", zipfile.ZIP_STORED), ("mimic-iv-ecg-1.0/", zipfile.ZIP_DEFLATED)]
)
def test_same_bytes_as_from_the_tree(tree, tmp_path, prefix, compression):
    options = PackOptions(shard_size=5, audit=0.3)
    manifest = pack(tree, tmp_path / "from_tree", options=options)
    assert manifest["readers"]["wfdb"] == 1
    archive = make_zip(tree, tmp_path / "source.zip", prefix=prefix, compression=compression)
    options.workers = 2 if prefix else 1
    pack(archive, tmp_path / "from_zip", options=options)
    assert digests(tmp_path / "from_zip") == digests(tmp_path / "from_tree")


def test_signal_files_of_any_name_and_place_are_found_in_a_zip_too(tmp_path):
    folder = tmp_path / "in"
    for seed, (name, dat) in enumerate({"a": "a.DAT", "b": "../signals/b.dat", "c": "c.dat", "d": "c.dat"}.items()):
        record = write_record(folder / "headers" / name, plausible_signal(MIMIC_LEADS, seed=min(seed, 2)))
        (folder / "signals").mkdir(exist_ok=True)
        record.with_name(f"{name}.dat").rename(record.parent / dat)
        header = record.with_name(f"{name}.hea")
        lines = header.read_text().replace(f"{name}.dat", dat).replace(f"{name} 12 ", f"{name} 13 ")
        header.write_text(f"{lines}{name}.xyz 16 2000 16 0 0 500 0 vx\n")
        record.with_name(f"{name}.xyz").write_bytes(b"\1\0" * 500)
    manifest = pack(folder, tmp_path / "from_tree", options=PackOptions())
    assert (manifest["num_records"], manifest["record_flags"]["duplicate"]) == (4, 2)
    pack(make_zip(folder, tmp_path / "source.zip"), tmp_path / "from_zip", options=PackOptions())
    assert digests(tmp_path / "from_zip") == digests(tmp_path / "from_tree")


def test_every_member_reads_as_zipfile_reads_it(tree, tmp_path):
    path = make_zip(tree, tmp_path / "source.zip")
    files = open_files(path)
    assert isinstance(files, ZipFiles)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                assert files.read(info.filename) == archive.read(info)
    files.index.save(tmp_path / "index.npy")
    again = ZipFiles(path, ZipIndex.load(tmp_path / "index.npy", path))
    assert again.read("record_list.csv") == files.read("record_list.csv")
    assert not again.exists("record_list.txt")


def test_zip64_offsets_and_counts_are_followed(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # forces zip64 records and extra fields
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = make_zip(tree, tmp_path / "source.zip")
    assert b"PK\6\6" in path.read_bytes()
    files = open_files(path)
    assert files.read("record_list.csv") == (tree / "record_list.csv").read_bytes()
    assert sum(path.endswith(".hea") for path in files.paths()) == 13


def test_a_damaged_member_is_a_reject(tree, tmp_path):
    path = make_zip(tree, tmp_path / "source.zip", compression=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(".dat"))
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + 40] ^= 1
    path.write_bytes(data)
    pack(path, tmp_path / "out", options=PackOptions())
    assert rejects_of(tmp_path / "out") == {Path(info.filename).stem: "unreadable"}


def test_what_is_no_readable_zip_is_one_line(tree, tmp_path):
    (tmp_path / "text.zip").write_text("this is no zip at all, but longer than an end record")
    with pytest.raises(UsageError, match="no zip"):
        open_files(tmp_path / "text.zip")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"neither a directory nor a \.zip"):
        open_files(tmp_path / "notes.txt")
    path = make_zip(tree, tmp_path / "source.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="whose end is missing"):
        open_files(path)
    start = struct.unpack_from("<I", whole, len(whole) - 6)[0]
    path.write_bytes(whole[:start] + b"XX" + whole[start + 2 :])
    with pytest.raises(LamaeError, match="directory of the zip is damaged"):
        open_files(path)


def remade(path: Path, tree: Path) -> None:
    """The same files in other places of the zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(tree.rglob("*")):
            archive.write(file, file.relative_to(tree).as_posix())


def test_a_zip_made_anew_between_restarts_is_taken_up(tree, tmp_path, caplog):
    options = PackOptions(shard_size=5)
    pack(tree, tmp_path / "whole", options=options)
    path = make_zip(tree, tmp_path / "source.zip")
    plan(path, tmp_path / "out", options=options)
    pack_part(path, tmp_path / "out", 0)
    remade(path, tree)
    with pytest.raises(LamaeError, match="another zip than the one that was planned, or made anew"):
        pack_part(path, tmp_path / "out", 1)
    pack(path, tmp_path / "out", options=options)
    assert "made anew since" in caplog.text
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_zip_of_other_content_between_restarts_is_refused(tree, tmp_path):
    path = make_zip(tree, tmp_path / "source.zip")
    plan(path, tmp_path / "out", options=PackOptions())
    data = next(tree.rglob("*.dat"))
    data.write_bytes(data.read_bytes()[::-1])
    make_zip(tree, path)
    with pytest.raises(UsageError, match="holds other files than when the packing"):
        pack(path, tmp_path / "out", options=PackOptions())


def test_a_copy_of_the_zip_on_another_disk_is_the_same_zip(tree, tmp_path):
    path = make_zip(tree, tmp_path / "source.zip")
    plan(path, tmp_path / "out", options=PackOptions(shard_size=5))
    copy = tmp_path / "copy.zip"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, (1, 1))
    pack_part(copy, tmp_path / "out", 1)


def central(data: bytes) -> int:
    """Where the first entry of the directory is."""
    return struct.unpack_from("<I", data, len(data) - 6)[0]


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (42, struct.pack("<I", 0x7FFFFFFF), "would end behind the end of the zip"),
        (24, b"\xff\xff\xff\xff", "directory of the zip is damaged"),  # a size in a zip64 field that is not there
        (28, b"\xff\xff", "directory of the zip is damaged"),  # a name longer than what is left
        (8, b"\1", "is encrypted; unpack"),
        (10, b"\x09", "is packed by method 9; unpack"),
    ],
)
def test_an_odd_directory_is_one_line(tree, tmp_path, at, value, complaint):
    path = make_zip(tree / "files", tmp_path / "source.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("last", b"x")
    data = bytearray(path.read_bytes())
    start = data.rfind(b"PK\1\2")
    data[start + at : start + at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(LamaeError, match=complaint):
        open_files(path)


def test_a_zip64_end_record_beyond_the_end_is_one_line(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = make_zip(tree, tmp_path / "source.zip")
    data = bytearray(path.read_bytes())
    locator = data.rfind(b"PK\6\7")
    data[locator + 8 : locator + 16] = struct.pack("<Q", len(data) - 4)
    data[len(data) - 4 :] = b"PK\6\6"
    path.write_bytes(data)
    with pytest.raises(LamaeError, match="damaged"):
        open_files(path)


def test_links_in_a_zip_are_named_since_what_is_behind_them_is_not_in_it(tree, tmp_path, caplog):
    path = make_zip(tree, tmp_path / "source.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("files/elsewhere")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/other/disk")
    open_files(path)
    assert "1 links are left out, such as files/elsewhere" in caplog.text


@pytest.mark.parametrize(("system", "raw", "name"), [(3, b"s\xfcd", b"s\xfcd"), (0, b"a\\s\x81d", "a/süd".encode())])
def test_names_in_a_zip_are_those_that_unzip_gives(tmp_path, system, raw, name):
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for stem in ("one", "q" * len(raw)):
            info = zipfile.ZipInfo(f"{stem}.hea")
            info.create_system = system
            archive.writestr(info, stem)
    path.write_bytes(path.read_bytes().replace(b"q" * len(raw) + b".hea", raw + b".hea"))
    files = open_files(path)
    assert sorted(files.paths()) == sorted(["one.hea", os.fsdecode(name) + ".hea"])
    assert files.read(os.fsdecode(name) + ".hea") == b"q" * len(raw)
