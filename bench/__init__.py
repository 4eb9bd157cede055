"""Measurements: how fast redtier is, beside other servers and by itself."""
