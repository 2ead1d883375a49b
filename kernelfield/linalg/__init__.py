"""Linear algebra: what positive-definite systems can be asked, and matrices of radial functions."""
