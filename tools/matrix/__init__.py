# SPDX-License-Identifier: BSD-3-Clause
"""Builds, tests and measures torch_ext with several releases of torch and Python: python -m tools.matrix --help."""
