"""Measurements: `python -m bench.ctc`."""
