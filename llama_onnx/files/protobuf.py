"""Protocol buffers: read the fields of a message in place, and write one.

https://protobuf.dev/programming-guides/encoding/ describes the encoding. The bytes may come from anywhere, so every
length is checked against the message that contains it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

MAX_FIELDS = 4_000_000  # over all messages read from one file; the graph of a layer has a few thousand at most
MAX_TEXT_BYTES = 1 << 16
MAX_PACKED_BYTES = 1024

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class DamagedError(Exception):
    """What is wrong with the bytes."""


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and wire type, then its value, or where its bytes start and end."""

    number: int
    wire: int
    value: int = 0
    start: int = 0
    end: int = 0


class Reader:
    """Reads messages from a mapped file. Positions are in bytes; a message is at [start, end).

    Every method raises `DamagedError` where the bytes are not a valid message.
    """

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self._fields_left = MAX_FIELDS

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message at [start, end)."""
        place = start
        while place < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise DamagedError(f"more than {MAX_FIELDS} fields")
            tag, place = self.varint(place, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise DamagedError(f"field 0 at byte {place}")
            if wire == VARINT:
                value, place = self.varint(place, end)
                yield Field(number, wire, value)
                continue
            if wire == BYTES:
                size, place = self.varint(place, end)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise DamagedError(f"wire type {wire} at byte {place}")
            if size > end - place:
                raise DamagedError(f"a field of {size} bytes at byte {place}, where only {end - place} are left")
            yield Field(number, wire, 0, place, place + size)
            place += size

    def messages(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields that hold bytes: messages and texts."""
        return (field for field in self.fields(start, end) if field.wire == BYTES)

    def varint(self, place: int, end: int) -> tuple[int, int]:
        """Return the number at `place`, and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                raise DamagedError(f"ends within a number at byte {place}")
            byte = self.data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, place
        raise DamagedError(f"a number of more than 10 bytes at byte {place}")

    def packed(self, field: Field) -> list[int]:
        """Return the numbers of a packed repeated field."""
        if field.end - field.start > MAX_PACKED_BYTES:
            raise DamagedError(f"a list of numbers of {field.end - field.start} bytes at byte {field.start}")
        values, place = [], field.start
        while place < field.end:
            value, place = self.varint(place, field.end)
            values.append(value)
        return values

    def text(self, field: Field) -> str:
        """Return the text of a field."""
        if field.wire != BYTES or field.end - field.start > MAX_TEXT_BYTES:
            raise DamagedError(f"no text where there should be one, at byte {field.start}")
        try:
            return self.data[field.start : field.end].decode()
        except UnicodeDecodeError:
            raise DamagedError(f"text that is not UTF-8 at byte {field.start}") from None


def encode_varint(value: int) -> bytes:
    """Return a number as a message holds it."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + encode_varint(rest) if rest else bytes([low])


def encode_bytes(number: int, payload: bytes) -> bytes:
    """Return field `number` with a message or text in it."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(payload)) + payload
