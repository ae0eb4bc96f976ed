"""HIRL on pictures of your own: the estimator, its defaults, and its files. `hirl` itself exports what is public."""
