"""What the training loop of `solver.py` stands on: optimiser, several processes, its state on disk, its log, its lock."""
