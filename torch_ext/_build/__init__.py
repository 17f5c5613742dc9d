# SPDX-License-Identifier: BSD-3-Clause
"""How the extension is compiled and found.

Nothing here is imported from the rest of the package: ``setup.py`` takes this folder by its path.

===============  ==============================================================
``config``       what it is compiled from, with which flags, for which releases
``compiler``     the C++ compiler, what it reads, and the stamp beside what it makes
``stamp``        what an extension was compiled against, and whether it fits
``cache``        the folder where builds are kept
``on_import``    compiles it on first import and keeps the result
``loader``       finds it, or has it compiled, and loads it
===============  ==============================================================
"""
