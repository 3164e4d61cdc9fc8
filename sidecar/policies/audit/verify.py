"""Verification: reads audit files from the first line to the last and tells every place where the chain is broken.

What is found: any line that was edited, removed, moved or inserted, because hashes no longer fit; a tail that was cut off,
because the last signed checkpoint lies beyond the end; a chain that somebody without the key has computed anew, because
signatures no longer fit. What is not: records after the last checkpoint that went with everything behind them. A number
that was written down elsewhere (`expect_sequence`) closes that, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sidecar.policies.audit.hashes import GENESIS, Checkpoint, read_checkpoint, unseal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from sidecar.policies.audit.hashes import Sealed

BreakKind = Literal["edited", "removed", "swapped", "inserted", "truncated", "signature", "key"]
_BREAKS_TOLD = 1000
_ROTATED = re.compile(r"(.+)\.[1-9][0-9]{0,3}", re.DOTALL)


@dataclass(slots=True)
class Break:
    """Where the chain is broken, and how; `line` counts from 1, 0 = none in particular."""

    file: str
    line: int
    kind: BreakKind
    text: str


@dataclass(slots=True)
class Report:
    """What was found. Warnings leave the chain intact: a torn last line, records that were dropped, files not given."""

    records: int = 0
    first: int = 0
    last: int = 0
    signed_to: int = 0
    keys: list[str] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        return not self.breaks

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {"intact": self.is_intact, **asdict(self)}


def verify(
    files: Iterable[Path],
    *,
    pins: Collection[str] = (),
    checkpoint: Path | None = None,
    expect_sequence: int | None = None,
) -> Report:
    """Check `files`, given in any order, as one chain. Raises OSError for a file that cannot be read.

    `pins`: fingerprints of the keys that may sign; with them, signatures are demanded. `checkpoint`: where the last one
    lies, if not beside the file that is being written. `expect_sequence`: a record that must be there.
    """
    report = Report()
    # Before the files: what is signed was written before.
    paths = list(dict.fromkeys(files))
    current = next((path for path in paths if not _ROTATED.fullmatch(path.name)), None)
    beside = checkpoint or (current.with_name(f"{current.name}.checkpoint") if current is not None else None)
    signed = _read_beside(beside, report, pins) if beside is not None else None
    walk = _Walk(report, pins, signed)
    for path in sorted(paths, key=_first_sequence):
        walk.read(path, is_last=path == current)
    walk.finish()
    _check_end(report, paths, current, beside, signed, pins)
    if expect_sequence is not None and report.last < expect_sequence:
        text = f"record {expect_sequence} is expected, and the last one is {report.last}"
        report.breaks.append(Break(str(current or paths[-1]), 0, "truncated", text))
    return report


class _Walk:
    """The way through all lines of all files."""

    def __init__(self, report: Report, pins: Collection[str], signed: Checkpoint | None) -> None:
        self._report = report
        self._pins = pins
        self._signed = signed
        self._file = ""
        # The record before; None = the hash to follow is unknown, because a line was unreadable.
        self._sequence: int | None = None
        self._hash: str | None = None
        self._missing: dict[int, Break] = {}
        # Lines since the last whole record: (number, bytes with the newline).
        self._unreadable: list[tuple[int, bytes]] = []
        self._unreadable_before = 0

    def read(self, path: Path, *, is_last: bool) -> None:
        self._file = str(path)
        is_first = True
        kind = ""
        number = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                found = unseal(line.removesuffix(b"\n"))
                if found is None:
                    self._unreadable.append((number, line))
                    continue
                if self._unreadable:
                    self._judge_unreadable(found)
                if is_first and found.kind != "opened" and not self._unreadable_before:
                    self._break(number, "removed", "the beginning of this file: its first record is not `opened`")
                is_first = False
                kind = found.kind
                self._link(number, found)
                self._look(number, found)
                if not line.endswith(b"\n"):
                    self._warn(number, "the last line has no end; what is there of it is whole")
        self._end_of_file(is_last=is_last)
        if is_first:
            self._break(0, "removed", "there is no record in this file")
        elif not is_last and kind != "rotated" and _ROTATED.fullmatch(path.name):
            self._break(number, "truncated", "this file was rotated, and does not end with the record that says so")

    def _end_of_file(self, *, is_last: bool) -> None:
        """A torn last line is what a killed process leaves; it is torn where it has no newline."""
        if self._unreadable and is_last and not self._unreadable[-1][1].endswith(b"\n"):
            number, line = self._unreadable.pop()
            self._warn(
                number, f"the last line is torn ({len(line)} bytes); the sidecar goes on after it at its next start"
            )
        self._edited()

    def _judge_unreadable(self, found: Sealed) -> None:
        """Lines that are no records: torn ones, if the record after them says just that."""
        content = b"".join(line for _, line in self._unreadable)
        torn = found.record.get("torn")
        told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if found.kind in {"recovered", "opened"} and torn == told:
            self._warn(self._unreadable[0][0], f"a torn line ({len(content)} bytes), named by the record after it")
            self._unreadable.clear()
            return
        # Who tells of a torn line takes its place in the chain.
        self._edited(records=torn is None)

    def _edited(self, *, records: bool = True) -> None:
        """`records`: each of these lines has been a record once."""
        for number, _ in self._unreadable:
            self._break(number, "edited", "the hash does not fit the line")
        if records and self._unreadable:
            self._unreadable_before += len(self._unreadable)
            self._hash = None
        self._unreadable.clear()

    def _link(self, number: int, found: Sealed) -> None:
        """Does `found` follow what was before?"""
        report, skipped = self._report, self._unreadable_before
        self._unreadable_before = 0
        report.records += 1
        if self._sequence is None:
            self._begin(number, found, skipped)
        else:
            expected = self._sequence + 1
            if found.sequence < expected:
                self._out_of_order(number, found)
                return
            if found.sequence > expected + skipped:
                gone = range(expected + skipped, found.sequence)
                what = f"record {gone[0]}" if len(gone) == 1 else f"records {gone[0]} to {gone[-1]}"
                broken = self._break(number, "removed", f"{what} before this line")
                if len(self._missing) < _BREAKS_TOLD:
                    self._missing.update(dict.fromkeys(gone[:_BREAKS_TOLD], broken))
            elif found.sequence < expected + skipped:
                self._break(
                    number, "inserted", f"{expected + skipped - found.sequence} unreadable lines before this one"
                )
            elif self._hash is not None and found.prev != self._hash:
                self._break(number, "edited", "it does not follow the line before, whose hash was computed anew")
        self._sequence, self._hash = found.sequence, found.hash
        report.last = found.sequence

    def _begin(self, number: int, found: Sealed, skipped: int) -> None:
        self._report.first = found.sequence
        if found.sequence == 1:
            if found.prev != GENESIS:
                self._break(number, "edited", "the first record of all follows another one")
        elif skipped == 0 and found.kind == "opened":
            self._report.warnings.append(
                f"{self._file}: begins with record {found.sequence}; earlier files were not given, nothing is said of them"
            )

    def _out_of_order(self, number: int, found: Sealed) -> None:
        broken = self._missing.pop(found.sequence, None)
        if broken is None:
            self._break(number, "inserted", f"record {found.sequence} has been before")
        elif broken.kind == "removed":
            broken.kind = "swapped"
            broken.text = f"record {found.sequence} belongs before this line, and stands in line {number}"

    def _look(self, number: int, found: Sealed) -> None:
        """What a record says about the log itself."""
        report = self._report
        if found.kind == "gap":
            self._warn(number, f"{found.record.get('dropped')} records were dropped, the queue was full")
        elif found.kind == "recovered" and "torn" not in found.record:
            self._warn(number, f"found when the file was opened again: {found.record.get('cause')}")
        elif found.kind == "checkpoint":
            signed = read_checkpoint(found.record.get("checkpoint"))
            if signed is None or (signed.sequence, signed.hash) != (found.sequence - 1, found.prev):
                self._break(number, "signature", "the signature of this checkpoint does not fit")
            elif _is_trusted(signed, self._pins):
                report.signed_to = max(report.signed_to, signed.sequence)
                _add(report.keys, signed.key)
            else:
                self._break(number, "key", f"signed by {signed.key}, which is not the key you named")
        if self._signed is not None and found.sequence == self._signed.sequence and found.hash != self._signed.hash:
            self._break(number, "edited", "it is not the record that the last checkpoint signs")

    def finish(self) -> None:
        """Nothing is left to read."""
        if self._signed is not None and self._report.last >= self._signed.sequence:
            self._report.signed_to = max(self._report.signed_to, self._signed.sequence)

    def _break(self, number: int, kind: BreakKind, text: str) -> Break:
        broken = Break(self._file, number, kind, text)
        if len(self._report.breaks) < _BREAKS_TOLD:
            self._report.breaks.append(broken)
        return broken

    def _warn(self, number: int, text: str) -> None:
        if len(self._report.warnings) < _BREAKS_TOLD:
            self._report.warnings.append(f"{self._file}:{number}: {text}")


def _check_end(
    report: Report,
    paths: list[Path],
    current: Path | None,
    beside: Path | None,
    signed: Checkpoint | None,
    pins: Collection[str],
) -> None:
    """Is the end the end?"""
    if signed is not None and report.last < signed.sequence and (current is not None or not report.records):
        text = f"signed up to record {signed.sequence}, and the last one is {report.last}"
        report.breaks.append(Break(str(current or paths[-1]), 0, "truncated", text))
    if signed is None and not any(each.kind in {"signature", "key"} for each in report.breaks):
        if current is None:
            report.warnings.append(
                "the file that is being written was not given; whether files after these are missing is not known"
            )
        elif pins:
            report.breaks.append(
                Break(str(beside), 0, "truncated", "there is no signed checkpoint; the end may be cut")
            )
        else:
            report.warnings.append(f"{beside}: there is no signed checkpoint; a cut end cannot be found")
    if pins and not report.keys and report.is_intact and current is None:
        report.breaks.append(Break(str(paths[-1]), 0, "signature", "nothing in these files is signed"))
    if not pins and report.keys:
        report.warnings.append(f"signed by {', '.join(report.keys)}; name the key you trust (--key) to rely on that")


def _read_beside(path: Path, report: Report, pins: Collection[str]) -> Checkpoint | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        signed = read_checkpoint(json.loads(content))
    except ValueError:
        signed = None
    if signed is None:
        report.breaks.append(Break(str(path), 0, "signature", "the signature of the last checkpoint does not fit"))
    elif not _is_trusted(signed, pins):
        report.breaks.append(Break(str(path), 0, "key", f"signed by {signed.key}, which is not the key you named"))
        signed = None
    else:
        _add(report.keys, signed.key)
    return signed


def _is_trusted(signed: Checkpoint, pins: Collection[str]) -> bool:
    return not pins or signed.key in pins


def _add(keys: list[str], key: str) -> None:
    if key not in keys:
        keys.append(key)


def _first_sequence(path: Path) -> tuple[int, str]:
    """Where in the chain a file begins; one without a single record comes last."""
    found = next(_records(path), None)
    return (found.sequence if found is not None else 1 << 62, path.name)


def _records(path: Path) -> Iterator[Sealed]:
    with path.open("rb") as file:
        for line in file:
            found = unseal(line.removesuffix(b"\n"))
            if found is not None:
                yield found
