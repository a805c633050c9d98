"""What it costs, and what it bears: run-time, memory, training speed, complexity, long work, kills. One command each."""
