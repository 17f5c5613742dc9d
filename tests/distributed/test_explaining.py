# SPDX-License-Identifier: BSD-3-Clause
"""What torch_ext says of graphs on several ranks: anomaly mode's notes, unused parameters, saved memory."""
