"""Bodies, parts and training of networks, and what is done with a trained one."""
