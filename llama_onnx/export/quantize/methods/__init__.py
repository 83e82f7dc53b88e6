"""Methods of quantising a matrix, one module for each."""
