"""Tools that all parts use: files, hashes, random generators, errors, paths, the console. They know nothing of the method."""
