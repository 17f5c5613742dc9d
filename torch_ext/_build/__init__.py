# SPDX-License-Identifier: BSD-3-Clause
"""How the extension is compiled and found.

===============  ==============================================================
``config``       what it is compiled from, with which flags, for which releases
``on_import``    compiles it on first import and keeps the result
``loader``       finds it, or has it compiled, and loads it
===============  ==============================================================
"""
