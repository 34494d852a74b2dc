"""Turn evidence into a diagnosis, a capacity recommendation and commands to paste."""
