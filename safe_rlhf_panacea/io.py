"""Files that are either whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError

LONGEST_INTEGER = 300  # digits; those of a float64 end soon after
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` when the block succeeds.

    A reader sees the old file or the new one, never half of one. Missing folders are made. If
    the block raises, the old file stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's files are for their owner only; these are as readable as any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except Exception as error:
        raise _about(error, path, temporary) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the target's place when the block succeeds.

    The target is new or empty, or is to be replaced; behind a link, which stays, it is the folder
    that the link leads to. Anything else is refused.
    """
    check_folder(target)
    if target.exists() and any(target.iterdir()) and not replace:
        raise UserError(f"{target} holds other files: choose a new or an empty folder")
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    filled, old = temporary / "new", temporary / "old"
    filled.mkdir()
    try:
        try:
            yield filled
        except Exception as error:
            raise _about(error, target, temporary) from error
        if target.exists():
            target.rename(old)
        try:
            filled.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Refuse a path where no folder can be: a file, or below a link that leads nowhere."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: the output folder must be a folder, or new")
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(f"{place} is a link that leads nowhere: name a folder, or a new one")


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse an output file that cannot be written, or that is there and not to be replaced."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another file or give --overwrite")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{above} is no folder: {path} cannot be written")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """A full disk inside does not say where it is: its error gets this name."""
    try:
        yield
    except Exception as error:
        named = _about(error, Path(path))
        # torch's own error has no number
        if named is not error and getattr(named, "errno", errno.EIO) in DISK:
            raise named from error
        raise


def _about(error: Exception, path: Path, temporary: Path | None = None) -> Exception:
    """An error of the operating system with the file that the user knows, any other as it is.

    A full disk does not say where it is, safetensors puts the number into its message, and torch
    has a message of its own.
    """
    number = None
    if isinstance(error, OSError):
        named = error.filename2 or error.filename
        inside = temporary is not None and str(named).startswith(str(temporary))
        number = error.errno if named is None or inside else None
    if type(error).__name__ == "SafetensorError" and (found := OS_ERROR.search(str(error))):
        number = int(found[1])
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return RuntimeError(f"{path}: {error}")
    return OSError(number, os.strerror(number), str(path)) if number else error


def remove_leftovers(folder: Path) -> None:
    """Remove what writes of ``atomic_path`` that were killed left; none may be under way."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8 at once."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def atomic_write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
    """Write ``value`` to ``path`` as JSON at once; NaN and infinities are a ``ValueError``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str], *, infinities: bool = False) -> Any:
    """Read a JSON file; a ``UserError`` says what is wrong, and in which line.

    With ``infinities`` NaN and infinities pass, which are no JSON, but stand in some models'
    configurations.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if infinities else strict_json(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid JSON: the file is not UTF-8 text") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid JSON: it is nested too deeply") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def strict_json(text: str | bytes) -> Any:
    """A JSON value whose numbers are finite and whose texts can be written again."""
    value = json.loads(
        text,
        parse_constant=_finite,
        parse_float=_finite,
        parse_int=_integer,
        object_pairs_hook=unique_keys,
    )
    if b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for ``object_pairs_hook``; Python would keep the last of equal keys."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def append_line(path: Path, text: str, *, sync: bool = False) -> None:
    """Add ``text`` and a line break to a file, whole or not at all.

    With ``sync`` it is on the disk before the function returns.
    """
    rest = f"{text}\n".encode()
    # Without a buffer, which closing the file would write once more.
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while rest:
                rest = rest[file.write(rest) :]
            if sync:
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(path, before)
            raise _about(error, path) from error


def read_json_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file; a ``UserError`` names the number of a damaged line.

    A last line that an interruption cut short is left out.
    """
    values = []
    # Cut before decoding: an interruption may fall within a character.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            values.append(strict_json(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from error
    return values


def cut_half_line(path: Path) -> None:
    """Take away what an interruption left of a last line, so that the next one stands alone."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def address_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function, or of the type of another object that can be called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
