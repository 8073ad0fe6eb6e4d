"""What the API nodes and the workers share: the words, the log and the way to Redis."""
