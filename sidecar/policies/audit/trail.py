"""The file: append sealed records, rotate by size, sign checkpoints, and find the end again after a crash.

Everything here blocks, and runs in the writer's thread alone. Whoever fails in between (a full disk) leaves the file as it
was after the last whole record; a process that was killed leaves a torn line at worst, which the next start names in a record.

Which records are ours: `opened` begins every file, `rotated` ends one that was full, `checkpoint` is signed, `gap` tells
how many were dropped, `recovered` says what was found wrong when the file was opened again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.policies.audit.hashes import GENESIS, Sealed, Signer, read_checkpoint, seal, unseal

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from pathlib import Path

_TAIL = 1 << 20
"""Bytes from the end in which the last whole record must be."""


@dataclass(frozen=True, slots=True)
class TrailSettings:
    """How a trail is kept; sizes in bytes, `interval` in seconds. Without `key` there are no checkpoints."""

    rotate_size: int
    keep: int
    every: int = 1000
    interval: float = 10.0
    key: Path | None = None
    generation: int = 0
    """Of the configuration that says so; 0 = none."""


class Trail:
    """One audit log. It is opened by the first record, and again whenever `close` or a failure has closed it."""

    def __init__(self, path: Path, wall: Callable[[], float], settings: TrailSettings) -> None:
        self.path = path
        self.settings = settings
        self._wall = wall
        self._signers: dict[Path, Signer] = {}
        # The end of the chain; unknown (sequence 0) until the file was opened once.
        self.sequence = 0
        self._hash = GENESIS
        # Since the last checkpoint.
        self.unsigned = 0
        # While open.
        self._file: int | None = None
        self._lock: int | None = None
        self._size = 0
        self._opening = 0

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def checkpoint_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.checkpoint")

    def append(self, records: deque[dict[str, Any]]) -> None:
        """Write `records`; each is taken from the left once it is in the file. Raises OSError, ValueError (the key)."""
        try:
            self._open()
            while records:
                self._append_some(records)
        except BaseException:
            self._abandon()
            raise

    def checkpoint(self) -> None:
        """Sign the end of the chain, if there is a key and anything to sign; then it is on the disk, too."""
        if self.settings.key is None or not self.unsigned:
            return
        try:
            self._open()
            self._checkpoint(self.settings.key)
        except BaseException:
            self._abandon()
            raise

    def close(self) -> None:
        """Sign what is not yet signed, and let go of the file; the next record opens it again."""
        try:
            self.checkpoint()
            if self._file is not None:
                os.fsync(self._file)
        finally:
            self._release()

    # ── writing ──

    def _append_some(self, records: deque[dict[str, Any]]) -> None:
        """As many as fit before the next checkpoint or the end of the file."""
        settings = self.settings
        sequence, digest, size = self.sequence, self._hash, self._size
        lines: list[bytes] = []
        room = settings.every - self.unsigned if settings.key is not None else len(records)
        for record in records:
            if len(lines) >= max(room, 1):
                break
            line, following = seal(record, sequence + 1, digest)
            if size + len(line) > settings.rotate_size and self._holds_records(lines):
                if not lines:
                    self._rotate()
                    return
                break
            lines.append(line)
            size += len(line)
            sequence += 1
            digest = following
        self._write(b"".join(lines), sequence, digest, len(lines))
        for _ in lines:
            records.popleft()
        if settings.key is not None and self.unsigned >= settings.every:
            self._checkpoint(settings.key)

    def _holds_records(self, lines: list[bytes]) -> bool:
        # A record that is larger than the file may be gets a file of its own, behind `opened`.
        return bool(lines) or self._size > self._opening

    def _write(self, content: bytes, sequence: int, digest: str, count: int) -> None:
        """All of `content`, or none of it: what a full disk took half is cut off again. Raises OSError."""
        assert self._file is not None
        written = 0
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError:
            if written:
                os.ftruncate(self._file, self._size)
            raise
        self._size += written
        self.sequence, self._hash = sequence, digest
        self.unsigned += count

    def _write_own(self, kind: str, **more: Any) -> None:
        sequence = self.sequence + 1
        line, digest = seal({"kind": kind, "time": rfc3339(self._wall()), **more}, sequence, self._hash)
        self._write(line, sequence, digest, 1)

    def _checkpoint(self, key: Path) -> None:
        assert self._file is not None
        signer = self._signer(key)
        now = rfc3339(self._wall())
        self._write_own("checkpoint", checkpoint=signer.sign(self.sequence, self._hash, now))
        # What is signed must not be lost before its signature is.
        os.fsync(self._file)
        # The signature in the chain ties down all before it; the one beside the file also that it is there.
        staged = self.path.with_name(f".{self.path.name}.checkpoint")
        with staged.open("w", encoding="ascii") as file:
            file.write(json.dumps(signer.sign(self.sequence, self._hash, now)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self.checkpoint_path)
        self.unsigned = 0

    def _signer(self, key: Path) -> Signer:
        signer = self._signers.get(key)
        if signer is None:
            signer = self._signers[key] = Signer.load_or_create(key)
        return signer

    # ── rotation ──

    def _rotate(self) -> None:
        assert self._file is not None
        if self.settings.key is not None:
            self._checkpoint(self.settings.key)
        # Last of all: a start that finds it at the end of the file knows what was left to do.
        self._write_own("rotated")
        os.fsync(self._file)
        self._shift()
        self._open_file()

    def _shift(self) -> None:
        """audit.jsonl becomes audit.jsonl.1, .1 becomes .2, and so on; the oldest goes."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        for number in range(self.settings.keep, 0, -1):
            source = numbered(self.path, number - 1)
            if source.exists():
                source.replace(numbered(self.path, number))

    # ── opening ──

    def _open(self) -> None:
        if self._file is not None:
            # Somebody may have moved or removed the file; ours is whatever has the name.
            try:
                if os.path.samestat(os.fstat(self._file), self.path.stat()):
                    return
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = None
        self._take_lock()
        self._open_file()

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OSError(f"{self.path}: another process writes this audit log; each needs its own") from None
        self._lock = lock

    def _open_file(self) -> None:
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        self._opening = 0
        tail = _read_tail(self._file, self._size)
        if tail.last is None and len(tail.torn) < self._size:
            raise OSError(f"{self.path}: the last {_TAIL} bytes hold no audit record; this is another file")
        if tail.last is not None and tail.last.kind == "rotated" and not tail.torn:
            # It was full, and the process ended before it could be renamed.
            self._continue(tail.last)
            self._shift()
            self._open_file()
            return
        if tail.lacks_newline:
            os.write(self._file, b"\n")
            self._size += 1
        problem = self._continue(tail.last)
        torn = {"bytes": len(tail.torn), "sha256": hashlib.sha256(tail.torn).hexdigest()} if tail.torn else None
        if torn is not None and problem is None:
            problem = "the last line was torn"
        more: dict[str, Any] = {"torn": torn} if torn is not None else {}
        if problem is not None:
            more["cause"] = problem
        if tail.last is None:
            self._write_own("opened", version=__version__, **more)
            self._opening = self._size
        elif problem is not None:
            self._write_own("recovered", **more)

    def _continue(self, last: Sealed | None) -> str | None:
        """Find the end of the chain; what was wrong with it, if anything.

        The furthest that we know of counts, from memory or by signature: where the file ends before that, the chain goes on
        as though it had not been cut, and `verify` finds the hole.
        """
        if last is None and not self.sequence:
            last = self._last_rotated()
        found = (last.sequence, last.hash) if last is not None else (0, GENESIS)
        known = (self.sequence, self._hash) if self.sequence else self._signed_end()
        if known[0] > found[0] and last is not None:
            self.sequence, self._hash = known
            return f"the file ends at {found[0]}, and had gone on to {known[0]}"
        if known[0] == found[0] and known[1] != found[1]:
            self.sequence, self._hash = known
            return f"record {known[0]} is not the one that was written"
        self.sequence, self._hash = max(found, known, key=lambda each: each[0])
        return None

    def _signed_end(self) -> tuple[int, str]:
        try:
            found = read_checkpoint(json.loads(self.checkpoint_path.read_bytes()))
        except (OSError, ValueError):
            return 0, GENESIS
        return (found.sequence, found.hash) if found is not None else (0, GENESIS)

    def _last_rotated(self) -> Sealed | None:
        """The end of the file before, where a new one is begun."""
        try:
            file = os.open(numbered(self.path, 1), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return _read_tail(file, os.fstat(file).st_size).last
        finally:
            os.close(file)

    # ── letting go ──

    def _abandon(self) -> None:
        """After a failure: open afresh next time, with all the checks."""
        with contextlib.suppress(OSError):
            self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        lock, self._lock = self._lock, None
        try:
            if file is not None:
                os.close(file)
        finally:
            if lock is not None:
                os.close(lock)


@dataclass(frozen=True, slots=True)
class _Tail:
    """How a file ends: the last whole record, and the bytes after it that are none."""

    last: Sealed | None
    torn: bytes
    lacks_newline: bool


def _read_tail(file: int, size: int) -> _Tail:
    start = max(0, size - _TAIL)
    content = os.pread(file, size - start, start)
    end = len(content)
    while end > 0:
        has_newline = content.endswith(b"\n", 0, end)
        stop = end - has_newline
        begin = content.rfind(b"\n", 0, stop) + 1
        # Whatever precedes the window is no whole line.
        found = unseal(content[begin:stop]) if begin or not start else None
        if found is not None:
            torn = content[end:]
            lacks = not content.endswith(b"\n")
            return _Tail(found, torn + b"\n" if torn and lacks else torn, lacks)
        end = begin
    lacks = bool(content) and not content.endswith(b"\n")
    return _Tail(None, content + b"\n" if lacks else content, lacks)


def numbered(path: Path, number: int) -> Path:
    """The file that was rotated `number` times; 0 = the one that is written."""
    return path.with_name(f"{path.name}.{number}") if number else path


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch → `2027-01-15T08:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
