"""What every command needs: flags, one-line errors, whole files, devices, several processes, an optimiser, progress."""
