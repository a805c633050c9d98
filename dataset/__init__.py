"""From image files to training patches and test pairs: images -> HDF5 -> patches. Independent of the network."""
