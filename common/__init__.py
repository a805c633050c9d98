"""What every command needs: one-line errors, whole-file writing, devices, several processes, an optimiser, the progress bar."""
