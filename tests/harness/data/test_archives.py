"""Archives that strangers packed write their own files, below the folder, and nothing else."""

import gzip
import io
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.data.archives import is_archive, unpack

OUTSIDE = (
    "../out.txt", "a/../../out.txt", "/out.txt", "..\\out.txt", "a\\..\\..\\out.txt",
    "\\out.txt", "C:\\out.txt", "c:out.txt", "\\\\server\\share\\out.txt",
)  # fmt: skip


def zipped(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder; a link is a defect."""
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_member_that_leads_out_is_refused_by_its_name(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        zipped(path, ("in.txt", b"in"), (name, b"out"))
    else:
        tarred(path, (tarfile.TarInfo("in.txt"), b"in"), (tarfile.TarInfo(name), b"out"))
    with pytest.raises(UserError) as error:
        unpack(path, tmp_path / "deep" / "er" / "folder")
    assert f"'{name}' leads out" in str(error.value) and str(path) in str(error.value)
    assert not list(tmp_path.rglob("*out*"))


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", ("images\\", b""), ("images\\train\\1.jpg", b"one"))
    unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set") == {"images/train/1.jpg": b"one"}


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("words.txt")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "set.zip", (member, b"/etc/passwd"))
    with pytest.raises(UserError, match=r"'words\.txt' is a link or a device"):
        unpack(path, tmp_path / "set")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_of_a_tar_are_copies_of_its_own_members(tmp_path: Path, kind: bytes) -> None:
    first = (tarfile.TarInfo("a/first.txt"), b"first")
    target = "first.txt" if kind == tarfile.SYMTYPE else "a/first.txt"
    unpack(tarred(tmp_path / "set.tar", first, link("a/again.txt", target, kind)), tmp_path / "set")
    assert contents(tmp_path / "set") == {"a/first.txt": b"first", "a/again.txt": b"first"}


@pytest.mark.parametrize(
    "members",
    [
        [link("words.txt", "/etc/passwd")],
        [link("words.txt", "../../../etc/passwd")],
        [link("words.txt", "/etc/passwd", tarfile.LNKTYPE)],
        [link("words.txt", "words.txt")],
        # Written through the link, the second member would lie outside.
        [link("images", "../.."), (tarfile.TarInfo("images/out.txt"), b"out")],
        [link("images", "/dev/null", tarfile.CHRTYPE)],
        [link("images", "", tarfile.FIFOTYPE)],
    ],
)
def test_links_that_lead_out_and_devices_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    path = tarred(tmp_path / "set.tar.gz", *members)
    with pytest.raises(UserError, match=r"set\.tar\.gz: cannot be unpacked"):
        unpack(path, tmp_path / "deep" / "set")
    assert not list(tmp_path.rglob("*out*"))
    assert contents(tmp_path).keys() == {"set.tar.gz"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_broken_archives_are_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    noise = bytes(range(256)) * 40
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("noise", noise)
    else:
        tarred(path, (tarfile.TarInfo("noise"), noise))
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:60] + b"\xff" * 8 + whole[68:], b"PK", b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot be unpacked"):
            unpack(path, tmp_path / "set")


@pytest.mark.parametrize("kind", ["tar", "tgz"])
@pytest.mark.parametrize("broken", [slice(1024, None), slice(1024, 1536)])
def test_a_tar_that_ends_too_early_is_not_read_in_part(
    tmp_path: Path, kind: str, broken: slice
) -> None:
    path = tarred(tmp_path / "set.tar", *((tarfile.TarInfo(name), b"1") for name in "abc"))
    content = bytearray(path.read_bytes())
    # The header of the second member is missing with all that follows, or is no header.
    content[broken] = b"" if broken.stop is None else b"x" * 512
    path = tmp_path / f"set.{kind}"
    path.write_bytes(gzip.compress(content) if kind == "tgz" else content)
    with pytest.raises(UserError, match=r"cannot be unpacked \(it is cut off, or broken"):
        unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set") == {}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return zipped(path, *files.items())
    return tarred(path, *((tarfile.TarInfo(name), content) for name, content in files.items()))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_what_systems_leave_beside_data_is_left_out(tmp_path: Path, kind: str) -> None:
    files = {"./a.txt": b"one", "sub\\b.txt": b"two"}
    litter = ("__MACOSX/sub/._b.txt", "sub/._b.txt", ".DS_Store", "sub/Thumbs.db", "Desktop.ini",
              ".ipynb_checkpoints/a-checkpoint.txt", "~$a.txt", ".~lock.a.txt#")  # fmt: skip
    path = pack(tmp_path / f"set.{kind}", files | dict.fromkeys(litter, b"no data"))
    path = path.rename(tmp_path / f"SET.{kind.upper()}")
    assert is_archive(path)
    unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set") == {"a.txt": b"one", "sub/b.txt": b"two"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"set.{kind}", {"sub/b.txt": b"one", "sub\\b.txt": b"two"})
    with pytest.raises(UserError, match=r"it has two files 'sub/b\.txt'"):
        unpack(path, tmp_path / "set")


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_larger_than_the_disk_is_refused_first(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / f"set.{kind}", {"a.bin": bytes(3000), "b.bin": bytes(4000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6_999))
    with pytest.raises(UserError, match=r"its files have 7,000 bytes, and 6,999 are free"):
        unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set") == {}


def test_locked_members_and_unknown_methods_are_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", ("a.txt", b"one"))
    content = path.read_bytes()
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    for offsets, value, reason in (
        ((local + 6, central + 8), 1, "encrypted"),
        ((local + 8, central + 10), 99, "compression method"),
    ):
        changed = bytearray(content)
        for offset in offsets:
            struct.pack_into("<H", changed, offset, value)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=rf"set\.zip: cannot be unpacked \(.*{reason}"):
            unpack(path, tmp_path / "set")


def test_a_name_in_utf8_without_its_flag_is_utf8_and_others_are_cp437(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", ("crème.txt", b"one"))
    flag = struct.pack("<H", 0x800)
    content = path.read_bytes()
    assert content.count(flag) == 2
    for name in ("crème", "cr\udc8ame"):
        encoded = name.encode(errors="surrogateescape").ljust(6, b"_")
        changed = content.replace(flag, bytes(2)).replace("crème".encode(), encoded)
        path.write_bytes(changed)
        unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set").keys() == {"crème.txt", "crème_.txt"}


def test_a_zip_of_more_than_four_gigabytes_has_another_form(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as zip_, zip_.open("a.txt", "w", force_zip64=True) as file:
        file.write(b"one")
    unpack(path, tmp_path / "set")
    assert contents(tmp_path / "set") == {"a.txt": b"one"}
