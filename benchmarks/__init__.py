"""Benchmarks of inference speed, memory, training speed and complexity; one command each."""
