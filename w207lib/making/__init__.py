"""Parts of the project's own generators, and data sets of their fakes."""
