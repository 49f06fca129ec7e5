"""Images from files, archives and services to arrays: the parts of import and pipeline."""
