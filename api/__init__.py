"""The API nodes: stateless, they tail logs to clients."""
