"""What every part stands on: files, hashes, generators, errors, paths, the console. It knows nothing of the method."""
