"""A package, so that pytest puts the repository, not this folder, on the path: tests/index must not pass for index."""
