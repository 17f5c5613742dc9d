# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext run``: Python itself runs the program, and what it is asked for besides goes along in its environment.

===========  ==============================================================
``options``  what it is asked for
``launch``   becomes the Python that runs the program
``program``  what happens in there, once torch is imported, and at the end
===========  ==============================================================
"""
