"""Dialects: pure projections of what a delivery gives onto one client protocol."""
