"""What a table takes that is mapped from a file and of which only a few rows are read: the embedding."""

LOOKED_UP = 128  # rows read before the file is mapped anew, which frees the pages of all earlier ones
AROUND = 64 << 10  # bytes that Linux maps at once around a page that is read (measured: 64 KB a row and tensor)
MOST_TENSORS = 6  # of a table: values in two planes, scales and minima in two levels each


def looked_up_bytes(table: int, rows: int, tensors: int = MOST_TENSORS) -> int:
    """Return the most bytes that a table takes while rows are looked up in it.

    Args:
        table: its bytes.
        rows: how many it has.
        tensors: how many tensors it is stored in.
    """
    return min(table, LOOKED_UP * (tensors * AROUND + table // rows))
