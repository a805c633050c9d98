"""Stress tests: killed training runs, memory growth and fuzzing. The first two also run as commands."""
