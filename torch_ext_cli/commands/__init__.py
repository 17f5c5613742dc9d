# SPDX-License-Identifier: BSD-3-Clause
"""A file for each command of ``torch-ext``. What a command needs of torch is imported inside of it."""
