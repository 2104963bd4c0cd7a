"""What a disk does to packing: failures that pass lose no record; nothing but regular files is awaited or read."""

import errno
import os
import shutil
import signal
import socket
import tracemalloc
import zipfile

import pytest

from lamae.base.errors import LamaeError
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.zipindex import ZipIndex
from tests.sharding.packing import digests, rejects_of
from tests.sharding.test_zip import make_zip
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record

# In every process that starts with this on its path, the first opening of every third signal file fails.
FAULTY = """
import errno, os, zlib
really, gone = os.open, set()
def faulty(path, *rest, **named):
    name = str(path)
    if name.endswith(".dat") and zlib.crc32(name.encode()) % 3 == 0 and name not in gone:
        gone.add(name)
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)
    return really(path, *rest, **named)
os.open = faulty
"""


@pytest.fixture(autouse=True)
def in_seconds():
    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def folder(tmp_path):
    """Two good records, ``odd`` and ``good``."""
    for seed, name in enumerate(("good", "odd")):
        write_record(tmp_path / "folder" / name, plausible_signal(MIMIC_LEADS, seed=seed))
    return tmp_path / "folder"


def fail_once(monkeypatch, name, number, is_meant):
    """Make the first call of ``os``'s ``name`` with a first argument that is meant fail."""
    really, failed = getattr(os, name), []

    def call(first, *rest, **named):
        if not failed and is_meant(first):
            failed.append(first)
            raise OSError(number, os.strerror(number), str(first))
        return really(first, *rest, **named)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("kind", ["tree", "zip"])
@pytest.mark.parametrize("suffix", [".hea", ".dat"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM])
def test_a_failure_that_may_pass_ends_the_run_and_the_next_one_has_every_record(
    mimic, tmp_path, monkeypatch, kind, suffix, number
):
    source = make_zip(mimic, tmp_path / "mimic.zip") if kind == "zip" else mimic
    options = PackOptions(shard_size=5)
    with monkeypatch.context() as patched:
        if kind == "tree":
            fail_once(patched, "open", number, lambda path: str(path).endswith(suffix))
        else:
            member = {}  # what is being read, known where the zip's index finds it
            found = ZipIndex.find
            patched.setattr(ZipIndex, "find", lambda index, name: member.update(name=name) or found(index, name))
            fail_once(patched, "pread", number, lambda _: member.get("name", "").endswith(suffix))
        with pytest.raises(
            LamaeError, match=rf"\{suffix} cannot be read \({os.strerror(number)}\).*run the same command"
        ):
            pack(source, tmp_path / "out", options=options)
    assert not (tmp_path / "out" / "dataset.json").exists()
    manifest = pack(source, tmp_path / "out", options=options)
    assert (manifest["num_records"], manifest["rejects"]) == (12, {})


def test_failures_in_workers_lose_no_record(mimic, tmp_path, monkeypatch):
    pack(mimic, tmp_path / "clean", options=PackOptions(shard_size=5))
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(FAULTY)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with pytest.raises(
            LamaeError, match=r"\.dat cannot be read \(Input/output error\), which may pass; run the same"
        ):
            pack(mimic, tmp_path / "out", options=PackOptions(shard_size=5, workers=2))
    pack(mimic, tmp_path / "out", options=PackOptions(shard_size=5, workers=2))
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


def test_a_source_that_goes_away_within_a_shard_ends_the_run(mimic, tmp_path, monkeypatch):
    really, opened = os.open, []

    def unmounting(path, *rest, **named):
        if str(path).endswith(".dat"):
            opened.append(path)
            if len(opened) == 20:
                mimic.rename(tmp_path / "away")
        return really(path, *rest, **named)

    write_mimic_tree(mimic, num_subjects=20)
    monkeypatch.setattr(os, "open", unmounting)
    with pytest.raises(LamaeError, match="none of the 40 records of shard 0 is there any more"):
        pack(mimic, tmp_path / "out", options=PackOptions())
    (tmp_path / "away").rename(mimic)
    assert pack(mimic, tmp_path / "out", options=PackOptions())["num_records"] == 40


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(path.parent, os.O_RDONLY)  # the whole path may be too long for a socket
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def link_to(target):
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize("suffix", [".hea", ".dat"])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_fifo, "is no regular file"),
        (make_socket, "No such device or address"),
        (link_to("/dev/zero"), "is no regular file"),
        (link_to("odd.dat"), "Too many levels of symbolic links"),
        (lambda path: path.mkdir() if path.suffix == ".dat" else make_fifo(path), "is no regular file"),
    ],
)
def test_what_is_no_regular_file_is_a_reject_that_names_it(folder, tmp_path, suffix, make, what):
    path = folder / f"odd{suffix}"
    path.unlink()
    if suffix == ".hea" and "levels" in what:
        path.symlink_to(path.name)
    else:
        make(path)
    manifest = pack(folder, tmp_path / "out", options=PackOptions())
    assert manifest["rejects"] == {"unreadable": 1}
    assert f"odd{suffix}" in (tmp_path / "out" / "rejects.csv").read_text()
    assert what in (tmp_path / "out" / "rejects.csv").read_text()


def peak_mb_of(source, out):
    tracemalloc.start()
    try:
        pack(source, out, options=PackOptions())
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".hea", ".dat"])
@pytest.mark.parametrize("length", [" 500", ""])
def test_a_file_of_gigabytes_is_rejected_by_its_size_unread(folder, tmp_path, suffix, length):
    header = folder / "odd.hea"
    header.write_text(header.read_text().replace("odd 12 500 500", f"odd 12 500{length}"))
    os.truncate(folder / f"odd{suffix}", 3 << 30)
    assert peak_mb_of(folder, tmp_path / "out") < 30
    assert rejects_of(tmp_path / "out") == {"odd": "unreadable"}
    text = (tmp_path / "out" / "rejects.csv").read_text()
    assert f"odd{suffix} has 3221225472 bytes; at most" in text


def test_a_header_that_tells_of_more_signals_than_fit_in_memory_is_rejected(folder, tmp_path):
    lines = "".join(f"odd.dat 16 200 16 0 0 0 0 x{k}\n" for k in range(2000))
    (folder / "odd.hea").write_text(f"odd 2000 500 100000\n{lines}")
    assert peak_mb_of(folder, tmp_path / "out") < 30
    assert rejects_of(tmp_path / "out") == {"odd": "wrong_length"}


@pytest.mark.parametrize("suffix", [".hea", ".dat"])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_member_that_unpacks_to_more_than_a_record_is_rejected(folder, tmp_path, suffix, is_announced):
    small = (folder / f"odd{suffix}").stat().st_size
    with (folder / f"odd{suffix}").open("ab") as file:
        file.write(bytes(100 << 20))
    path = make_zip(folder, tmp_path / "source.zip")
    assert path.stat().st_size < 1 << 20
    if not is_announced:  # the directory tells of a small file
        data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(f"odd{suffix}").file_size
        assert data.count(size.to_bytes(4, "little")) == 2
        path.write_bytes(data.replace(size.to_bytes(4, "little"), small.to_bytes(4, "little")))
    shutil.rmtree(folder)
    assert peak_mb_of(path, tmp_path / "out") < 30
    assert rejects_of(tmp_path / "out") == {"odd": "unreadable"}
