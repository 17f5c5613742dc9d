// SPDX-License-Identifier: BSD-3-Clause
// What Python can ask of the notes.
#pragma once

#include <torch/csrc/python_headers.h>

namespace torch_ext {

extern PyMethodDef notes_methods[];

} // namespace torch_ext
