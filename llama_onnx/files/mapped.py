"""What a table takes that is mapped from a file and of which only a few rows are read: the embedding."""

LOOKED_UP = 128  # rows read before the file is mapped anew, which frees the pages of all earlier ones
AROUND = 64 << 10  # bytes that Linux maps at once around a page that is read (measured: 64 KB a row and tensor)
TENSORS = 2  # a quantised table has values and scales


def looked_up_bytes(table: int, rows: int) -> int:
    """Return the most bytes that a table of `table` bytes, with so many rows, takes while rows are looked up in it."""
    return min(table, LOOKED_UP * (TENSORS * AROUND + table // rows))
