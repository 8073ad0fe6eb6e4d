"""The commands for people on call: they look at Redis as a person with `redis-cli` would, and say what it means."""
