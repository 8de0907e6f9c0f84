"""Data, metrics and figures of the example that generates protein fragments."""
