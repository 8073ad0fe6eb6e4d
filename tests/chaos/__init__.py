"""Everything breaks, again and again, and nothing may be lost: see `python -m tests.chaos --help`."""
