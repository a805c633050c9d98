"""What it costs: run-time, memory, training speed, complexity. One command each; tables and JSON out."""
