"""Active learning: which rows of a pool to label next."""
