# SPDX-License-Identifier: BSD-3-Clause
"""Tools for those who work on torch_ext; not part of the package."""
