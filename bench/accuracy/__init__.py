"""How far from the truth every loss is, in units in the last place, beside Optax and PyTorch."""
