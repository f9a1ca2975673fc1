"""Data files: found in $GMLIB_DATA or in the cache, else downloaded; only the pinned content passes.

The pin is of the decoded content, so that one file may be packed in another way and still be known.
"""

import gzip
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    """One way to pack a content: a path below the data folder, and what turns its bytes into the content."""

    path: str
    decode: Callable[[bytes], bytes] = bytes


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
    for folder in _folders():
        for file in content.files:
            if (folder / file.path).is_file():
                return _checked(folder / file.path, folder / file.path, file, content.sha256)
    return _download(content)


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
