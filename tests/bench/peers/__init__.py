"""What people run instead, each as a server of its own that serves the scenarios of the benchmarks."""
