"""Builds, tests and measures torch_ext with several releases of torch and Python: python -m tools.matrix --help."""
