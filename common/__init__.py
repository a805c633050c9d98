"""Shared by all packages: command line, errors, atomic file writes, locks, devices, malloc, prefetching, progress."""

SCALES = (2, 3, 4)  # the upscaling factors of the paper: HR and SR are this many times as high and wide as LR
