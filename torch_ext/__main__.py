# SPDX-License-Identifier: BSD-3-Clause
"""``python -m torch_ext``: the commands of ``torch-ext``."""

from torch_ext_cli import main

if __name__ == "__main__":
    main()
