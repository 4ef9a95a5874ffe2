"""Progress: what stands beside a committed offset, so that the next owner of a partition goes on where this one was.

On the way of a message: written with every commit of a native service, as the commit's metadata, and read when a
partition is taken over. An offset alone says that everything before it is done; this says what is done beyond it, how
often what fails was tried, and whether the owner was at work when it was last heard of. Kafka keeps both together or
not at all, so that they can't disagree. The text holds nothing of the records themselves.

The format, all ASCII, parts separated by dots::

    progress1.<checksum>.<position>.<part>.<part>…

    checksum  CRC-32 (RFC 1952) of all that follows its dot: 6 characters of the alphabet below, lowest bits first
    position  the committed offset, decimal: the text is void beside any other
    r         an owner has records in work
    k<n>      n owners ended uncleanly at this position
    u<n>      n more records are to run by themselves
    s<o><a>   the record at position+o ran by itself, its attempt a
    f<n>      n records were in flight
    p<n>      n keys are parked in the retry topic
    c<word>   state of the operation's circuit: lower-case letters and hyphens
    t(<o><4m+d><f>)…   position+o has made m attempts, d of which (3 at most) ended with their process; f is when the
                       first failed, epoch ms, less that of the entry before (zigzag; 0 for unknown)
    d(<o><n>)…         o offsets open, then n done, from the position on; offsets of an entry add up

Numbers are varints of the base64url alphabet (RFC 4648, section 5): 5 bits a character, lowest first, 32 added where
more follow. Offsets in `t` and `d` count from the one before. A part that says nothing is left out.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

MAX_LENGTH: Final = 4095
"""Longest text, in characters: Kafka's `offset.metadata.max.bytes` is 4096 by default, and 4095 pass."""

RESTS_ABOVE: Final = 3072
"""A partition whose text is longer takes no more records for now: three quarters of what a commit may hold."""

MOST_DEATHS: Final = 3
"""So many ends of its process are told of one record; more are as good as that."""

_PREFIX: Final = "progress1."
_ATTEMPTS_LENGTH: Final = 1024
_ALPHABET: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_CIRCUIT_LETTERS: Final = frozenset(string.ascii_lowercase + "-")
_CIRCUIT_LENGTH: Final = 20
_HIGHEST: Final = 2**63 - 1
_CHECKSUM_LENGTH: Final = 6

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open ranges of offsets, ascending, none of which overlap."""


class Attempts(NamedTuple):
    """How far a record is that waits for another attempt in its place.

    Args:
        made: attempts that have ended.
        first_failure: when the first one failed, epoch ms; None where that is unknown.
        died: how many of them ended with their process, while the record ran by itself; `MOST_DEATHS` at most.
    """

    made: int
    first_failure: int | None = None
    died: int = 0


class Alone(NamedTuple):
    """The record that runs by itself now, and the number of its attempt."""

    offset: int
    attempt: int


class Progress(NamedTuple):
    """What is known of a partition beside its position.

    Args:
        done: offsets beyond the position that need no work any more.
        attempts: by offset, of records that wait for another attempt in their place.
        deaths: how many owners in a row ended uncleanly at this very position, or with a record that ran by itself.
        singly: how many more records are to run by themselves, after unclean ends.
        running: whether an owner has records in work; found on taking over, it has died or was cut off.
        alone: the record that runs by itself, after unclean ends.
        in_flight: how many records were taken and not settled, and due; for people.
        parked: how many keys are parked in the retry topic; for people.
        circuit: the state of the operation's circuit, `""` where there is nothing to say; for people.
    """

    done: Ranges = ()
    attempts: Mapping[int, Attempts] = MappingProxyType({})
    deaths: int = 0
    singly: int = 0
    running: bool = False
    alone: Alone | None = None
    in_flight: int = 0
    parked: int = 0
    circuit: str = ""

    def write(self, position: int) -> str:
        """Give the text that goes with a commit: at most `MAX_LENGTH` characters.

        What would not fit is left out, and just runs again after a crash: attempts of the newest records first, then
        what is done the farthest beyond the position.

        Args:
            position: the offset that is committed; what is said of offsets before it is left out.
        """
        parts = [str(position)]
        if self.running:
            parts.append("r")
        if self.deaths:
            parts.append("k" + _varint(self.deaths))
        if self.singly:
            parts.append("u" + _varint(self.singly))
        if self.alone is not None and self.alone.offset >= position:
            parts.append("s" + _varint(self.alone.offset - position) + _varint(self.alone.attempt))
        if self.in_flight:
            parts.append("f" + _varint(self.in_flight))
        if self.parked:
            parts.append("p" + _varint(self.parked))
        if _is_circuit(self.circuit):
            parts.append("c" + self.circuit)
        if attempts := _joined(_attempts(self.attempts, position), _ATTEMPTS_LENGTH):
            parts.append("t" + attempts)
        body = ".".join(parts)
        room = MAX_LENGTH - len(_PREFIX) - _CHECKSUM_LENGTH - len(body) - len("..d")
        if done := _joined(_runs(self.done, position), room):
            body += ".d" + done
        return f"{_PREFIX}{_checksum(body)}.{body}"

    @staticmethod
    def read(text: str | None, position: int) -> Progress:
        """Read the text that was found beside a committed offset.

        Args:
            text: as Kafka has it; None for none.
            position: the committed offset.

        Returns:
            An empty `Progress` where the text is no one's, another tool's, of another version, damaged, or of another
            offset: whatever it would have said just runs again.
        """
        if text is None or not text.startswith(_PREFIX) or len(text) > MAX_LENGTH or not text.isascii():
            return Progress()
        checksum, _, body = text[len(_PREFIX) :].partition(".")
        if checksum != _checksum(body):
            return Progress()
        written_at, *parts = body.split(".")
        if written_at != str(position):
            return Progress()
        try:
            return _parsed(parts, position)
        except ValueError:
            return Progress()


def _parsed(parts: Iterable[str], position: int) -> Progress:
    found = Progress()
    for part in parts:
        kind, rest = part[:1], part[1:]
        match kind:
            case "r" if not rest:
                found = found._replace(running=True)
            case "k":
                found = found._replace(deaths=_only(rest))
            case "u":
                found = found._replace(singly=_only(rest))
            case "s":
                beyond, attempt = _numbers(rest)
                found = found._replace(alone=Alone(position + beyond, attempt))
            case "f":
                found = found._replace(in_flight=_only(rest))
            case "p":
                found = found._replace(parked=_only(rest))
            case "c" if _is_circuit(rest):
                found = found._replace(circuit=rest)
            case "t":
                found = found._replace(attempts=_parsed_attempts(rest, position))
            case "d":
                found = found._replace(done=_parsed_runs(rest, position))
            case _:
                raise ValueError(f"unknown part {part[:20]!r}")
    return found


def _attempts(attempts: Mapping[int, Attempts], position: int) -> Iterator[str]:
    """Give the entries of `t`, oldest record first."""
    before, failed_before = position, 0
    for offset in sorted(attempts):
        if offset >= position:
            made, first_failure, died = attempts[offset]
            failed = first_failure or 0
            counted = 4 * made + min(died, MOST_DEATHS)
            yield _varint(offset - before) + _varint(counted) + _varint(_zigzag(failed - failed_before))
            before, failed_before = offset, failed


def _parsed_attempts(text: str, position: int) -> Mapping[int, Attempts]:
    found: dict[int, Attempts] = {}
    offset, failed = position, 0
    numbers = _numbers(text)
    for beyond, attempts, later in zip(*[iter(numbers)] * 3, strict=True):
        offset += beyond
        failed += _unzigzag(later)
        found[offset] = Attempts(attempts >> 2, failed or None, attempts & MOST_DEATHS)
    return found


def _runs(done: Ranges, position: int) -> Iterator[str]:
    """Give the entries of `d`, ascending."""
    before = position
    for start, end in done:
        if end > before:
            start = max(start, before)
            yield _varint(start - before) + _varint(end - start)
            before = end


def _parsed_runs(text: str, position: int) -> Ranges:
    found = []
    offset = position
    numbers = _numbers(text)
    for opened, done in zip(*[iter(numbers)] * 2, strict=True):
        offset += opened
        found.append((offset, offset + done))
        offset += done
    return tuple(found)


def _joined(entries: Iterable[str], room: int) -> str:
    """Join entries as far as there is room for them."""
    kept = []
    for entry in entries:
        room -= len(entry)
        if room < 0:
            break
        kept.append(entry)
    return "".join(kept)


def _is_circuit(word: str) -> bool:
    return 0 < len(word) <= _CIRCUIT_LENGTH and _CIRCUIT_LETTERS.issuperset(word)


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    return "".join(_ALPHABET[value >> 6 * place & 63] for place in range(_CHECKSUM_LENGTH))


def _zigzag(number: int) -> int:
    return number * 2 if number >= 0 else -number * 2 - 1


def _unzigzag(number: int) -> int:
    return number >> 1 if not number & 1 else -(number >> 1) - 1


def _varint(number: int) -> str:
    characters = []
    while number >= 32:
        characters.append(_ALPHABET[32 | number & 31])
        number >>= 5
    characters.append(_ALPHABET[number])
    return "".join(characters)


def _numbers(text: str) -> list[int]:
    """Read varints up to the end of a part.

    Raises:
        ValueError: there is anything else.
    """
    numbers = []
    number = shift = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None or shift > 60:
            raise ValueError(f"no number: {text[:20]!r}")
        number |= (value & 31) << shift
        shift += 5
        if not value & 32:
            if number > _HIGHEST:
                raise ValueError(f"no offset: {number}")
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError(f"cut off: {text[-20:]!r}")
    return numbers


def _only(text: str) -> int:
    (number,) = _numbers(text)
    return number
