# SPDX-License-Identifier: BSD-3-Clause
"""Makes wheels that need no compiler where they are installed: python -m tools.wheels --help.

===========  ==================================================================
``build``    the package without an extension; an extension for one release of torch
``merge``    one wheel of these
``repair``   its manylinux tag
===========  ==================================================================
"""
