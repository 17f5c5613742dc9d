// SPDX-License-Identifier: BSD-3-Clause
// Checks of gradients that the engine doesn't make.
#pragma once

#include <torch/csrc/python_headers.h>

#include <cstdint>
#include <vector>

namespace torch::autograd {
struct Node;
}

namespace torch_ext {

/// Which checks anomaly mode makes besides that for NaN. In 8 bytes, which a
/// thread reads and replaces at once.
struct Checks {
  bool loss : 1 = false; // of what backward is called on and with
  bool inf : 1 = false; // of each gradient
  bool forward : 1 = false; // of what each operator and Function returns
  bool saved : 1 = false; // of what nodes have saved
  bool deferred : 1 = false; // of gradients, without waiting for devices
  std::uint32_t every = 0; // looks then after so many nodes, 0: at the end
};

/// Those in use. What else is here needs the GIL.
Checks checks();

/// set_anomaly_checks(loss, inf, forward=False, saved=False, every=-1): decides it
/// for the whole process. `every` is -1 unless gradients are checked deferred.
/// Returns what held before.
PyObject* py_set_anomaly_checks(PyObject* module, PyObject* args);

/// While it lives, each node that a backward from `roots` can run is checked, as
/// checks() asks: it throws if it is given or gives gradients that are not
/// finite, or accumulates such; NaN that it gives is left to the engine. Or it
/// throws if what it has saved has changed. Backwards may share nodes.
class CheckedGraph {
 public:
  explicit CheckedGraph(PyObject* roots);
  ~CheckedGraph();
  CheckedGraph(const CheckedGraph&) = delete;
  CheckedGraph& operator=(const CheckedGraph&) = delete;

 private:
  std::vector<torch::autograd::Node*> nodes_;
};

} // namespace torch_ext
