// SPDX-License-Identifier: BSD-3-Clause
#include <notes/methods.h>

#include <notes/backward_calls.h>
#include <notes/changes.h>
#include <notes/collector.h>
#include <notes/cuts.h>
#include <notes/node_notes.h>
#include <notes/operators.h>
#include <notes/saved.h>
#include <notes/timed_calls.h>

namespace torch_ext {

namespace {

PyDoc_STRVAR(
    notes_of_doc,
    "notes_of(node, /)\n--\n\n"
    "(made_in, freed_by): how many backwards had begun when the node was made,\n"
    "and the number of the one that freed it, 0 if none has. None if the node\n"
    "was not made in torch_ext's anomaly mode.");

PyDoc_STRVAR(
    backwards_doc,
    "backwards()\n--\n\n"
    "How many backwards have begun in anomaly mode, in this process.");

PyDoc_STRVAR(
    backward_call_doc,
    "backward_call(number, /)\n--\n\n"
    "The stack on which a backward was called, a LazyTraceback; None if it is\n"
    "forgotten.");

PyDoc_STRVAR(
    changes_of_doc,
    "changes_of(tensor, version, /)\n--\n\n"
    "The operators that are known to have changed the tensor in place since it\n"
    "had that version: [(name, version before, version after, stack)], in "
    "order.");

PyDoc_STRVAR(
    cuts_of_doc,
    "cuts_of(of, /)\n--\n\n"
    "Numbers of the cuts that the values of a tensor come from, or values that a\n"
    "node was made from.");

PyDoc_STRVAR(
    cut_doc,
    "cut(number, /)\n--\n\n"
    "(operator, reason, stack, whether all leaves behind it are known) of a place\n"
    "in which values left the graph; None if it is forgotten.");

PyDoc_STRVAR(
    cuts_from_doc,
    "cuts_from(leaf, /)\n--\n\n"
    "Numbers of the cuts through which values computed from the leaf went.");

PyDoc_STRVAR(
    recent_cuts_doc,
    "recent_cuts(number, /)\n--\n\n"
    "Numbers of the cuts since so many backwards had begun.");

PyDoc_STRVAR(
    forget_notes_doc,
    "forget_notes()\n--\n\n"
    "Forgets the calls of backward, the changes and the cuts that are known.");

PyDoc_STRVAR(
    graph_objects_doc,
    "graph_objects()\n--\n\n"
    "The tensors and the nodes that Python's garbage collector knows.");

PyDoc_STRVAR(
    referrers_of_doc,
    "referrers_of(targets, /)\n--\n\n"
    "What holds any of the targets, as Python's garbage collector knows.");

PyDoc_STRVAR(
    read_saved_doc,
    "read_saved(node, name, /)\n--\n\n"
    "(data, unpack hook) of each saved tensor that the node has by this name;\n"
    "None while a backward runs the node.");

PyDoc_STRVAR(
    note_only_doc,
    "note_only(on, /)\n--\n\n"
    "Decides whether anomaly mode lets nodes note where they are made, and does\n"
    "nothing else. Returns what held before.");

PyDoc_STRVAR(
    observe_doc,
    "observe_operators(on, /)\n--\n\n"
    "Looks at operators that change a tensor or may cut the graph, on this\n"
    "thread, or no longer. Returns what held before.");

PyDoc_STRVAR(
    observes_doc,
    "observes_operators()\n--\n\n"
    "Whether this thread looks at operators.");

PyDoc_STRVAR(
    follow_doc,
    "follow_operators(on, /)\n--\n\n"
    "Follows values that have left the graph through all operators on this\n"
    "thread; with False, for one who wanted it less.");

PyDoc_STRVAR(
    start_timing_doc,
    "start_timing(on_call, /)\n--\n\n"
    "Times the calls of Functions from now on. on_call(class, arguments, result,\n"
    "number of saved tensors, whether there is a node) returns the row, an int,\n"
    "in which the calls of a class are counted. Returns a number for the others.");

PyDoc_STRVAR(
    timed_calls_doc,
    "timed_calls(number, /)\n--\n\n"
    "For each row, for calls without a node, with one, and of backward: how many\n"
    "there were, nanoseconds, those of the user's code, bytes saved, and a sample\n"
    "of calls: [(nanoseconds, those of the user's code)].");

PyDoc_STRVAR(
    stop_timing_doc,
    "stop_timing(number, /)\n--\n\n"
    "Times calls no longer, and forgets what was timed.");

PyObject* py_forget_notes(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  forget_backward_calls();
  forget_changes();
  forget_cuts();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

} // namespace

PyMethodDef notes_methods[] = {
    {"backward_call", py_backward_call, METH_O, backward_call_doc},
    {"backwards", py_backwards, METH_NOARGS, backwards_doc},
    {"changes_of", py_changes_of, METH_VARARGS, changes_of_doc},
    {"cut", py_cut, METH_O, cut_doc},
    {"cuts_from", py_cuts_from, METH_O, cuts_from_doc},
    {"cuts_of", py_cuts_of, METH_O, cuts_of_doc},
    {"follow_operators", py_follow_operators, METH_O, follow_doc},
    {"forget_notes", py_forget_notes, METH_NOARGS, forget_notes_doc},
    {"note_only", py_note_only, METH_O, note_only_doc},
    {"notes_of", py_notes_of, METH_O, notes_of_doc},
    {"observe_operators", py_observe_operators, METH_O, observe_doc},
    {"observes_operators", py_observes_operators, METH_NOARGS, observes_doc},
    {"graph_objects", py_graph_objects, METH_NOARGS, graph_objects_doc},
    {"referrers_of", py_referrers_of, METH_O, referrers_of_doc},
    {"read_saved", py_read_saved, METH_VARARGS, read_saved_doc},
    {"recent_cuts", py_recent_cuts, METH_O, recent_cuts_doc},
    {"start_timing", py_start_timing, METH_O, start_timing_doc},
    {"stop_timing", py_stop_timing, METH_O, stop_timing_doc},
    {"timed_calls", py_timed_calls, METH_O, timed_calls_doc},
    {nullptr, nullptr, 0, nullptr}};

} // namespace torch_ext
