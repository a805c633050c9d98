"""The paper's tables with our results added: `python -m evaluation.paper`."""
