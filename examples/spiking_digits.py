# SPDX-License-Identifier: BSD-3-Clause
"""Train a spiking network on handwritten digits, on stock torch and on torch_ext: what `torch-ext demo` runs."""

import sys

from torch_ext_cli.demo.spiking_digits import main

if __name__ == "__main__":
    sys.exit(main())
