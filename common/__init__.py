"""What every command needs: flags, one-line errors, whole files, locks, devices, memory, working ahead, progress."""
