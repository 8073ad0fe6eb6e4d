"""The routes of other servers' protocols: what a request means here, and what its answer looks like there."""
