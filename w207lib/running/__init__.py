"""How work is run: notebooks headless, processes and machines, costs, locks, provenance."""
