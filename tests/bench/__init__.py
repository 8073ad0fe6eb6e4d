"""Benchmarks: what Holdfast costs, measured over real processes. `make bench`."""
