"""What the training loop of `solver.py` uses: optimizer, distributed training, saved state, log and lock."""
