"""Many requests in one pass over the weights."""
