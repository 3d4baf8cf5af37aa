"""Make independent parts of a long computation in processes or on a Ray cluster."""
