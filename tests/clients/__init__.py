"""The clients that people use, on keys of every home."""
