# SPDX-License-Identifier: BSD-3-Clause
"""What is installed, and what is wrong with it.

============  =================================================================
``examine``   collects the facts, most of them without torch
``probe``     imports torch and loads the extension, in a process of its own
``findings``  what is wrong, with the remedy for each
``report``    shows all of it
============  =================================================================
"""
