"""Archives that strangers packed write their own files, below the folder, and nothing else."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.data.archives import unpack

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
