# SPDX-License-Identifier: BSD-3-Clause
"""What ``torch-ext demo`` runs: its options, which need nothing, and the program."""
