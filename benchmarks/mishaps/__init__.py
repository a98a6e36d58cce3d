"""What a cache has to survive, as cases that tests run briefly and benchmarks in full."""
