"""Programs compiled for accelerators that need not be there: `python -m bench.compiled`."""
