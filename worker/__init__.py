"""The workers: they run generations and append what the model says to the log."""
