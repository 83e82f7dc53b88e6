"""What tables take that are mapped from a file and of which only a few rows are read: the embedding."""

from collections.abc import Iterable

LOOKED_UP = 128  # rows read before the file is mapped anew, which frees the pages of all earlier ones
AROUND = 64 << 10  # bytes that Linux maps around a row that it has to read (measured); more of what is in its cache
TENSORS = 3  # most of them that are large: values in two planes, scales


def looked_up_bytes(tables: Iterable[int], rows: int) -> int:
    """Return the most bytes that tables of so many bytes, with so many rows each, take while rows are looked up."""
    return sum(min(table, LOOKED_UP * (AROUND + table // rows)) for table in tables)


def charge_of_lookups(loaded: int, stored: int, rows: int) -> int:
    """Return the bytes that the manifest gives for an embedding of `stored` bytes; old ones give the whole table's."""
    return min(loaded, looked_up_bytes([stored] * TENSORS, rows))
