"""Reading ahead on storage that is slow to answer: the same set, from many requests at once."""

import threading
import time

import pytest

from lamae.sharding import readahead
from lamae.sharding.files import DirectoryFiles, ZipFiles
from lamae.sharding.pack import PackOptions, pack
from tests.sharding.packing import digests, rejects_of
from tests.sharding.test_zip import make_zip
from tests.sharding.wfdbtree import write_mimic_tree

OPTIONS = PackOptions(shard_size=40, audit=0.1)


class Slow:
    """Makes every read of ``kind`` of files take as long as an opening over a network, and counts those under way."""

    def __init__(self, monkeypatch, kind, seconds=0.002):
        self.most = self._now = 0
        lock, read = threading.Lock(), kind.read

        def slow(files, path, **limits):
            with lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(seconds)
            with lock:
                self._now -= 1
            return read(files, path, **limits)

        monkeypatch.setattr(kind, "read", slow)


@pytest.fixture
def mimic(tmp_path):
    """48 records in two shards, of which one has no signal file and one a header that nobody can read."""
    write_mimic_tree(tmp_path / "mimic", num_subjects=24, num_samples=200)
    headers = sorted((tmp_path / "mimic").rglob("*.hea"))
    headers[20].with_suffix(".dat").unlink()
    headers[45].write_text("no header\n")
    return tmp_path / "mimic"


@pytest.mark.parametrize("zipped", [False, True], ids=["directory", "zip"])
def test_slow_storage_gives_the_same_set_from_many_reads_at_once(mimic, tmp_path, monkeypatch, zipped):
    source = make_zip(mimic, tmp_path / "mimic.zip") if zipped else mimic
    pack(source, tmp_path / "fast", options=OPTIONS)
    slow = Slow(monkeypatch, ZipFiles if zipped else DirectoryFiles)
    pack(source, tmp_path / "slow", options=OPTIONS)
    assert digests(tmp_path / "slow") == digests(tmp_path / "fast")
    assert set(rejects_of(tmp_path / "slow").values()) == {"missing_file", "bad_header"}
    assert slow.most > 8


def test_fast_storage_is_read_one_file_at_a_time(mimic, tmp_path, monkeypatch):
    monkeypatch.setattr(readahead, "_SLOW_S", 60.0)
    watched = Slow(monkeypatch, DirectoryFiles, seconds=0)
    pack(mimic, tmp_path / "out", options=OPTIONS)
    assert watched.most == 1


def test_files_that_one_thread_alone_may_read_are_never_read_ahead(mimic, tmp_path, monkeypatch):
    monkeypatch.setattr(DirectoryFiles, "is_thread_safe", False)
    watched = Slow(monkeypatch, DirectoryFiles)
    pack(mimic, tmp_path / "out", options=OPTIONS)
    assert watched.most == 1


def test_work_of_the_processor_is_no_waiting(tmp_path):
    class Inflating:
        root, base, is_thread_safe = tmp_path, "", True

        def read(self, path, *, at_most=None):
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass
            return b""

    ahead = readahead.ReadAhead(Inflating())
    for number in range(3 * readahead._NUM_TRIED):
        ahead.read(f"{number}.dat")
    assert not ahead.is_slow
    ahead.close()


def test_of_a_header_that_names_many_files_none_is_read_ahead(tmp_path):
    class Files:
        root, base = tmp_path, ""
        asked: list[str] = []  # noqa: RUF012

        def read(self, path, *, at_most=None):
            self.asked.append(path)
            return b"a 13 500 10\n" + b"".join(b"a%d.dat 16\n" % n for n in range(13))

    files = Files()
    ahead = readahead.ReadAhead(files)
    ahead.is_slow = True
    ahead.announce(["a"])
    ahead.read("a.hea")
    assert files.asked == ["a.hea"]
    ahead.close()


def test_what_failed_ahead_is_read_again_and_what_is_read_twice_comes_from_the_file(tmp_path):
    class Files:
        root, base = tmp_path, ""
        asked: list[str] = []  # noqa: RUF012

        def read(self, path, *, at_most=None):
            self.asked.append(path)
            if self.asked.count(path) == 1:
                raise OSError(5, "away for a moment")
            return path.encode()

    files = Files()
    ahead = readahead.ReadAhead(files)
    ahead.is_slow = True
    ahead.announce(["a"])
    assert [ahead.read("a.hea"), ahead.read("a.hea")] == [b"a.hea"] * 2
    assert files.asked == ["a.hea"] * 3
    ahead.close()
