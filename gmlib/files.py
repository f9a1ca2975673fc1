"""Data files: found in $GMLIB_DATA or in the cache, else downloaded; only the pinned content passes.

The pin is of the decoded content, so that one file may be packed in another way and still be known.
What gmlib writes itself is written whole or not at all.
"""

import contextlib
import gzip
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple


class File(NamedTuple):
    """One way to pack a content: a path below the data folder, and what turns its bytes into the content."""

    path: str
    decode: Callable[[bytes], bytes] = bytes


class Found(NamedTuple):
    """Where a file lies, and how it is packed."""

    path: Path
    file: File


class Content(NamedTuple):
    """Bytes that are known by their sha256, the files that may hold them, and where the first one is served.

    `addresses` are those of the folder that serves the first file, to be tried in turn.
    """

    sha256: str
    files: tuple[File, ...]
    addresses: tuple[str, ...]


def read(content: Content) -> bytes:
    """The content, from $GMLIB_DATA, from the cache, or downloaded into the cache, in this order.

    A download gets its final name only when it is whole and its content is the one that is pinned.

    Raises:
        FileNotFoundError: if no folder has one of the files, and no address serves the first.
        ValueError: if a file that was found is damaged, or holds something else.
    """
    found = find(content)
    if found is None:
        return _download(content)
    return _checked(found.path, found.path, found.file, content.sha256)


def find(content: Content) -> Found | None:
    """The first of the files that may hold the content, unread; None if no folder has one."""
    for folder in _folders():
        for file in content.files:
            if (folder / file.path).is_file():
                return Found(folder / file.path, file)
    return None


def write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all: where that fails, or is cut short, the file before stays.

    Raises:
        OSError: if the disk is full, or the folder cannot be written; it names the file.
    """
    part = path.with_name(path.name + ".part")
    try:
        with _naming(path):
            with part.open("wb") as file:
                _through(file, content)
            os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def append(path: Path, content: bytes) -> None:
    """Adds to the end of a file, all or nothing.

    Raises:
        OSError: as `write`.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            _through(file, content)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _through(file: BinaryIO, content: bytes) -> None:
    """Writes to the disk itself, all of it."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the file in an error of the disk, which may come without a name."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def gunzip(data: bytes) -> bytes:
    """What was compressed by gzip."""
    return gzip.decompress(data)


def cache() -> Path:
    """The folder that downloads are kept in."""
    import pooch

    return Path(pooch.os_cache("gmlib"))


def _folders() -> Iterator[Path]:
    if "GMLIB_DATA" in os.environ:
        yield Path(os.environ["GMLIB_DATA"])
    yield cache()


def _checked(path: Path, name: Path | str, file: File, sha256: str) -> bytes:
    data = path.read_bytes()
    try:
        content = file.decode(data)
    except (OSError, EOFError, LookupError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is damaged ({_line(error)}): replace it.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{name} is damaged, or another file: its content needs sha256 {sha256}, got {found}."
        )
    return content


def _download(content: Content) -> bytes:
    """Fetches the first file to a name of its own, and renames it when its content is the right one."""
    import pooch

    file, refusals = content.files[0], []
    target = cache() / file.path
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=30)
    for address in content.addresses:
        url = address + Path(file.path).name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                part = Path(folder) / target.name
                fetch(url, str(part), None)
                result = _checked(part, url, file, content.sha256)
                part.replace(target)
                return result
        except OSError as error:
            refusals.append(f"{url} ({type(error).__name__})")
    looked = " and ".join(str(folder) for folder in _folders())
    raise FileNotFoundError(
        f"{file.path} is missing: not in {looked}, nor to be had from {' or '.join(refusals)}; "
        f"get it from there and save it as {target}, or in the folder that GMLIB_DATA names."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
