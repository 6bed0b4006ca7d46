"""Archives, honest and hostile."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from geoeq.datasets import archives
from geoeq.datasets.archives import extract

FUZZ = int(os.environ.get("GEOEQ_FUZZ", "300"))  # damaged archives


def zipped(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


def tarred(path: Path, members: dict[str, bytes], compression: str = "", **changes) -> Path:
    with tarfile.open(path, f"w:{compression}") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


HONEST = {"a.txt": b"one", "sub/b.txt": b"two" * 1000, "./sub/deep/c.bin": bytes(5000), "empty": b""}


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
def test_archives_unpack(tmp_path, kind):
    compression = "" if kind == "tar" else kind
    archive = zipped(tmp_path / "data", HONEST) if kind == "zip" else tarred(tmp_path / "data", HONEST, compression)
    folder = extract(archive, tmp_path / "out")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name.removeprefix("./"): content for name, content in HONEST.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    with pytest.raises(ValueError, match="folder must be empty or not there yet"):
        extract(archive, folder)
    with pytest.raises(ValueError, match="unpacks to more"):
        extract(archive, tmp_path / "small", max_bytes=2999)


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\out.txt", "C:out.txt", ".."])
def test_nothing_leaves_the_folder(tmp_path, name):
    for number, make in enumerate((zipped, tarred)):
        archive = make(tmp_path / f"{number}", {"good.txt": b"one", name: b"two"})
        with pytest.raises(ValueError, match="would leave the folder") as error:
            extract(archive, tmp_path / "out" / "in")
        assert "\n" not in str(error.value)
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_in_tar(tmp_path, kind):
    archive = tarred(tmp_path / "data", {"link": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(ValueError, match="link, a device or sparse"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused_in_zip(tmp_path, kind):
    with pytest.raises(ValueError, match="link or a device"):
        extract(zipped(tmp_path / "data", {"link": b"/etc/passwd"}, kind | 0o777), tmp_path / "out")


def test_bombs_are_refused(tmp_path, monkeypatch):
    bomb = {"zeros": bytes(20_000_000)}
    archives_of = [zipped(tmp_path / "zip", bomb), tarred(tmp_path / "tar", bomb, "gz")]
    assert all(archive.stat().st_size < 50_000 for archive in archives_of)
    for archive in archives_of:
        with pytest.raises(ValueError, match="unpacks to more than 1000000 bytes"):
            extract(archive, tmp_path / "out", max_bytes=1_000_000)
    lying = tmp_path / "zip"
    lying.write_bytes(lying.read_bytes().replace((20_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="cannot be unpacked"):
        extract(lying, tmp_path / "out", max_bytes=1_000_000)
    # A header that stands for much more than it holds: 200 MB of a long name.
    long = tarred(tmp_path / "name", {"x" * 120_000_000: b""}, "gz", type=tarfile.REGTYPE)
    with pytest.raises(ValueError, match="more bytes than allowed"):
        extract(long, tmp_path / "out", max_bytes=1000)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(ValueError, match="more than 3 members"):
        extract(zipped(tmp_path / "many", HONEST), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def assert_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ValueError, match="data cannot be unpacked") as error:
        extract(tmp_path / "data", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_an_archive_that_lacks_its_last_bytes_is_refused(tmp_path, kind):
    make = zipped(tmp_path / "data", HONEST) if kind == "zip" else tarred(tmp_path / "data", HONEST, kind)
    whole = make.read_bytes()
    for missing in range(1, 40):
        assert_refused(tmp_path, whole[:-missing])


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_a_tar_that_ends_between_members_or_at_half_an_end_mark_is_refused(tmp_path, kind):
    whole = tarred(tmp_path / "data", HONEST).read_bytes()
    packed = {"": bytes, "gz": archives.gzip.compress, "bz2": archives.bz2.compress, "xz": archives.lzma.compress}[kind]
    end = len(whole.rstrip(b"\0")) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE  # "empty" comes last
    for length in [*range(0, end + 2 * tarfile.BLOCKSIZE, tarfile.BLOCKSIZE), end + 2 * tarfile.BLOCKSIZE - 1]:
        assert_refused(tmp_path, packed(whole[:length]))
    (tmp_path / "data").write_bytes(packed(whole[: end + 2 * tarfile.BLOCKSIZE]))
    assert (extract(tmp_path / "data", tmp_path / "out") / "empty").exists()


def test_an_altered_tar_is_refused(tmp_path):
    whole = tarred(tmp_path / "data", HONEST).read_bytes()
    stored = bytearray(archives.gzip.compress(whole, compresslevel=0))
    stored[stored.index(b"twotwo")] ^= 1
    assert_refused(tmp_path, bytes(stored))
    header = bytearray(whole)
    header[whole.index(b"sub/b.txt")] ^= 1  # tarfile itself takes a damaged second header for the end
    assert_refused(tmp_path, bytes(header))
    assert_refused(tmp_path, archives.gzip.compress(whole) + b"more")


def test_what_follows_the_end_mark_is_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    whole = tarred(tmp_path / "data", HONEST).read_bytes()
    (tmp_path / "data").write_bytes(archives.gzip.compress(whole + bytes(50_000_000)))
    with pytest.raises(ValueError, match="it unpacks to more bytes than allowed"):
        extract(tmp_path / "data", tmp_path / "out", max_bytes=30_000)


def test_damaged_archives_are_one_line(tmp_path):
    generator = np.random.default_rng(1)
    wholes = [zipped(tmp_path / "data", HONEST).read_bytes()]
    wholes += [tarred(tmp_path / "data", HONEST, kind).read_bytes() for kind in ("", "gz", "bz2", "xz")]
    (tmp_path / "data").unlink()
    for number in range(FUZZ):
        content = bytearray(wholes[number % len(wholes)])
        for place in generator.integers(len(content), size=generator.integers(1, 20)):
            content[place] = generator.integers(256)
        if number % 3 == 0:
            del content[generator.integers(len(content)) :]
        (tmp_path / "data").write_bytes(content)
        try:
            extract(tmp_path / "data", tmp_path / f"out{number}")
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert not (tmp_path / f"out{number}").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_no_archive_and_no_archive_of_a_known_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        extract(tmp_path / "none", tmp_path / "out")
    for content in (b"", b"text", np.random.default_rng(0).bytes(300_000)):
        (tmp_path / "data").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be unpacked"):
            extract(tmp_path / "data", tmp_path / "out")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.writestr("inside.txt", "x")
    (tmp_path / "data.txt").write_text("y")
    with tarfile.open(tmp_path / "a.tar", "w") as outer:
        for name in ("data.txt", "inner.zip"):
            outer.add(tmp_path / name, name)
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.txt", "inner.zip"]
