"""Where a stack lies: a path of this machine, or an address in a bucket or on the web.

`located` is the one place where text becomes one or the other. A `RemotePath` answers the same questions as a
`pathlib.Path`, as far as a store of objects can; nothing else in the program looks at addresses.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cellxlate.errors import OptionError
from cellxlate.option_values import kind_of, shortly

CONNECT_S, READ_S = 20.0, 60.0
"""A server that does not answer for so long is an error."""

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
FLATTENED = re.compile(r"(s3|https?|file):/(?!/)")
"""What `pathlib` makes of an address."""

MOST_AT_ONCE = 1000
"""Objects that S3 removes with one request."""

EXTRA = 'pip install "cellxlate[remote]"'


@dataclass(frozen=True, order=True)
class RemotePath:
    """An address `s3://bucket/key` or `https://host/path`, with the methods of `pathlib.Path` that a stack needs.

    Attributes
    ----------
    scheme : {"s3", "http", "https"}
        What is spoken there.
    parts : tuple of str
        Bucket or host first, then the names that slashes part.

    Notes
    -----
    It has no `__fspath__`, so it is never taken for a file of this machine. An object appears whole or not at all.
    Whatever the store refuses is raised as OSError; only what it says is not there is a FileNotFoundError.
    """

    scheme: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    @property
    def key(self) -> str:
        """The address without its scheme."""
        return "/".join(self.parts)

    @property
    def writable(self) -> bool:
        """Whether something can be written there: into a bucket."""
        return self.scheme == "s3"

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1]

    @property
    def suffix(self) -> str:
        """The last ending of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its last ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "RemotePath":
        """The address without its last part; a bucket or host is its own parent."""
        return RemotePath(self.scheme, self.parts[:-1] or self.parts)

    @property
    def parents(self) -> "tuple[RemotePath, ...]":
        """All that lead here, the nearest first."""
        return tuple(RemotePath(self.scheme, self.parts[:count]) for count in range(len(self.parts) - 1, 0, -1))

    def __truediv__(self, name: str) -> "RemotePath":
        return self.joinpath(name)

    def joinpath(self, *names: str) -> "RemotePath":
        """Return an address below this one."""
        further = [part for name in names for part in str(name).split("/") if part]
        return RemotePath(self.scheme, (*self.parts, *further))

    def with_name(self, name: str) -> "RemotePath":
        """Return the address beside this one."""
        return RemotePath(self.scheme, (*self.parts[:-1], name))

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Return the address with another last ending."""
        return self.with_name(self.stem + suffix)

    def relative_to(self, above: "RemotePath") -> PurePosixPath:
        """Return the parts below another address."""
        return PurePosixPath(self.key).relative_to(above.key)

    def absolute(self) -> "RemotePath":
        """Return the address itself."""
        return self

    def exists(self) -> bool:
        """Return whether there is an object of this name, or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        try:
            return self.stated_bytes() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Return whether a bucket holds objects below this address; the web does not tell."""
        if not self.writable:
            return False
        bucket, key = self._bucket_key
        try:
            with remote_faults(self):
                listing = connection(self.scheme).call_s3(
                    "list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1
                )
        except FileNotFoundError:  # no such bucket
            return False
        return bool(listing.get("Contents"))

    def stated_bytes(self) -> int | None:
        """Return the size of the object.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        if not self.writable:
            return len(self.read_bytes())
        return int(self._head()["ContentLength"])

    def read_bytes(self) -> bytes:
        """Return the object."""
        with remote_faults(self):
            return bytes(connection(self.scheme).cat_file(str(self)))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the object in one step."""
        with remote_faults(self):
            connection(self.scheme).pipe_file(str(self), content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the object in one step."""
        self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: ARG002
        """Remove the object. A store does not tell whether there was one."""
        bucket, key = self._bucket_key
        with remote_faults(self):
            connection(self.scheme).call_s3("delete_object", Bucket=bucket, Key=key)

    def below(self) -> dict[str, int]:
        """Return the objects below this address: the rest of each key, and its bytes."""
        with remote_faults(self):
            objects = connection(self.scheme).find(f"{self.key}/", detail=True)
        start = len(self.key) + 1
        return {key[start:]: int(stated["size"]) for key, stated in objects.items() if len(key) > start}

    def remove_below(self, *, keep: Sequence[str] = ()) -> None:
        """Remove all objects below this address but some."""
        names, (bucket, key) = [name for name in self.below() if name not in keep], self._bucket_key
        for start in range(0, len(names), MOST_AT_ONCE):
            objects = [{"Key": f"{key}/{name}" if key else name} for name in names[start : start + MOST_AT_ONCE]]
            with remote_faults(self):
                answer = connection(self.scheme).call_s3(
                    "delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}
                )
            if refused := answer.get("Errors"):
                raise OSError(f"{self}/{refused[0].get('Key')} cannot be removed ({refused[0].get('Code')})")

    def copy_to(self, other: "RemotePath", names: Sequence[str]) -> None:
        """Copy objects below this address to another one of the same store, which does so by itself."""
        if names:
            with remote_faults(self):
                connection(self.scheme).copy(
                    [f"{self.key}/{name}" for name in names], [f"{other.key}/{name}" for name in names]
                )

    def write_if(self, content: bytes, *, expected: str | None) -> str:
        """Write the object only where the store has the expected version of it, or none, and return its new version.

        Raises
        ------
        FileExistsError
            Another has written it.
        """
        bucket, key = self._bucket_key
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            with remote_faults(self):
                answer = connection(self.scheme).call_s3(
                    "put_object", Bucket=bucket, Key=key, Body=content, **condition
                )
        except OSError as fault:
            is_gone = expected is not None and isinstance(fault, FileNotFoundError)
            if is_gone or isinstance(fault, FileExistsError) or _is_refused_condition(fault):
                raise FileExistsError(f"{self} was written by another") from fault
            raise
        return str(answer["ETag"])

    def version(self) -> str:
        """Return what tells this version of the object from others.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        return str(self._head()["ETag"])

    def _head(self) -> dict[str, Any]:
        bucket, key = self._bucket_key
        with remote_faults(self):
            return dict(connection(self.scheme).call_s3("head_object", Bucket=bucket, Key=key))

    @property
    def _bucket_key(self) -> tuple[str, str]:
        return self.parts[0], "/".join(self.parts[1:])


Location = Path | RemotePath
"""Where something lies."""


def located(location: "str | Path | RemotePath") -> Location:
    """Return the path or the address that is meant.

    Raises
    ------
    OptionError
        The address is of a kind that is not known, is incomplete, or holds a password, which would end in reports.
    """
    if isinstance(location, RemotePath):
        return location
    if not isinstance(location, str | Path):
        raise OptionError(f"{shortly(location)} {kind_of(location)}, expected a path or an address")
    text = str(location)
    if isinstance(location, Path):
        if not FLATTENED.match(text):
            return _named(location)
        text = FLATTENED.sub(r"\1://", text)
    address = ADDRESS.match(text)
    if not address:
        return _named(Path(text))
    scheme = address[1].lower()
    if scheme not in ("s3", "http", "https", "file"):
        raise OptionError(f"{scheme}:// is not known; give s3://, http://, https:// or a path")
    rest = text[address.end() :]
    if scheme == "file":
        if not rest.startswith("/"):
            raise OptionError("file:// takes a whole path with three slashes, as in file:///data/stack.ome.zarr")
        return Path(url2pathname(urlsplit(text).path))
    if "@" in rest.split("/")[0] or "?" in rest or "#" in rest:
        raise OptionError(
            f"the {scheme}:// address holds a password, a query or a fragment, which would end in reports; leave it "
            "out and give credentials in the environment, or in ~/.netrc (docs/how-to/cluster.md)"
        )
    parts = tuple(part for part in rest.split("/") if part)
    if not parts or any(part in (".", "..") for part in parts):
        raise OptionError(
            f"{scheme}://{rest} is no whole address; give {scheme}://{'bucket' if scheme == 's3' else 'host'}/name"
        )
    return RemotePath(scheme, parts)


def _named(path: Path) -> Path:
    """Return a path whose last part is a name, as outputs are named after it: "." and ".." are looked up."""
    return path if path.name not in ("", "..") else path.resolve()


def connection(scheme: str, *, asynchronous: bool = False) -> Any:
    """Return fsspec's file system for a scheme; one per process, and per endpoint.

    Credentials, region and endpoint come from the environment and the files that AWS's own tools read, those of the
    web from ~/.netrc. Nothing is listed from a cache, and an object is read by one request.

    Raises
    ------
    OptionError
        The packages are not installed.
    """
    try:
        import fsspec

        if scheme == "s3":
            import s3fs  # noqa: F401
        else:
            import aiohttp
    except ImportError as fault:
        raise OptionError(f"{scheme}:// needs another package; {EXTRA}") from fault
    always = {"asynchronous": asynchronous, "use_listings_cache": False}
    if scheme != "s3":
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout, "trust_env": True}, **always)
    return fsspec.filesystem(
        "s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        max_concurrency=1, config_kwargs={"connect_timeout": CONNECT_S, "read_timeout": READ_S}, **always,
    )  # fmt: skip


@contextmanager
def remote_faults(address: object) -> Iterator[None]:
    """Raise whatever a store or the way to it refuses as OSError; only what it says is not there is no error of it."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OptionError:
        raise
    except RuntimeError as fault:
        if str(fault) == "Event loop is closed":  # a request that another's failure left behind: nobody waits for it
            raise GeneratorExit from fault
        raise OSError(f"{address} does not answer as it should: {fault}") from fault
    except Exception as fault:  # of s3fs, aiobotocore, aiohttp and fsspec, which share no base
        words = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise OSError(f"{address} does not answer as it should: {words}") from fault


def _is_refused_condition(fault: BaseException) -> bool:
    """Return whether a store refused to write because its version is another one."""
    cause: BaseException | None = fault
    while cause is not None:
        stated = getattr(cause, "response", None)
        if isinstance(stated, dict) and stated.get("Error", {}).get("Code") in (
            "PreconditionFailed", "ConditionalRequestConflict", "412", "409"
        ):  # fmt: skip
            return True
        cause = cause.__cause__
    return False
