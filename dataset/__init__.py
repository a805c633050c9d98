"""From picture files to training patches and test pairs: images -> HDF5 -> patches. Knows no network."""
