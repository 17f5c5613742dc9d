// SPDX-License-Identifier: BSD-3-Clause
#include <notes/timed_calls.h>

#include <compat.h>
#include <python/error.h>
#include <python/names.h>
#include <python/ref.h>

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace torch_ext {

namespace {

/// What a call was; `kPlain` has made no node that backward can run.
enum Way : std::uint8_t { kPlain, kRecorded, kBackward };

constexpr size_t kWays = 3;
// So many calls of a row are kept one by one, picked at random from all.
constexpr size_t kSample = 1024;

struct Times {
  std::int64_t total, user; // nanoseconds
};

/// The calls of one row that went one way.
struct Tally {
  std::uint64_t calls = 0;
  std::int64_t total = 0, user = 0, bytes = 0;
  std::vector<Times> sample;

  void add(Times times, std::int64_t saved, std::uint64_t random) {
    ++calls;
    total += times.total;
    user += times.user;
    bytes += saved;
    if (sample.size() < kSample) {
      sample.push_back(times);
    } else if (const std::uint64_t place = random % calls; place < kSample) {
      sample[place] = times;
    }
  }
};

/// A class that has been called, and its row. The class isn't kept alive.
struct Known {
  Ref weak;
  size_t row = 0;
  bool seen[2] = {false, false}; // calls without a node, and with one
};

/// Somebody who times calls.
struct Timer {
  std::int64_t number;
  Ref on_call;
  std::vector<std::array<Tally, kWays>> rows;
  std::unordered_map<PyObject*, Known> classes;
  size_t sweep_at = 64;
};

compat::Mutex timing;
std::int64_t last_number = 0;
std::uint64_t random_state = 0x9E3779B97F4A7C15;

// Never destroyed, since it would be after Python's end.
std::vector<std::shared_ptr<Timer>>& timers() {
  static auto* all = new std::vector<std::shared_ptr<Timer>>();
  return *all;
}

std::uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

bool is_alive(const Known& known) {
  PyObject* object = nullptr;
  const int status = PyWeakref_GetRef(known.weak.get(), &object);
  Ref::steal(object);
  return status == 1;
}

/// Forgets classes that are gone, if there are many.
void sweep(Timer& timer) {
  if (timer.classes.size() < timer.sweep_at) {
    return;
  }
  std::erase_if(
      timer.classes, [](const auto& each) { return !is_alive(each.second); });
  timer.sweep_at = std::max<size_t>(64, 2 * timer.classes.size());
}

/// What on_call is told of a call besides its class; without arguments it is
/// one of backward.
struct Shown {
  Ref args, result;
  std::int64_t tensors_saved = 0;
  bool recorded = false;
};

/// The row of `cls`. Asks on_call for it if the class is new, and shows it the
/// first call without a node, and the first one with one.
size_t row_of(Timer& timer, PyObject* cls, const Shown& shown) {
  const auto found = timer.classes.find(cls);
  const bool known = found != timer.classes.end() && is_alive(found->second);
  if (known && (!shown.args || found->second.seen[shown.recorded])) {
    return found->second.row;
  }
  const Ref answer = checked(PyObject_CallFunction(
      timer.on_call.get(),
      "OOOLO",
      cls,
      shown.args ? shown.args.get() : Py_None,
      shown.result ? shown.result.get() : Py_None,
      static_cast<long long>(shown.tensors_saved),
      shown.recorded ? Py_True : Py_False));
  const size_t row = PyLong_AsSize_t(answer.get());
  if (PyErr_Occurred() != nullptr) {
    throw_python_error();
  }
  // on_call is Python code: `found` may not be where it was.
  Known seen{checked(PyWeakref_NewRef(cls, nullptr)), row};
  if (const auto now = timer.classes.find(cls);
      known && now != timer.classes.end()) {
    std::copy_n(now->second.seen, 2, seen.seen);
  }
  seen.seen[shown.recorded] |= static_cast<bool>(shown.args);
  sweep(timer);
  timer.classes.insert_or_assign(cls, std::move(seen));
  return row;
}

void add(
    PyObject* cls,
    Way way,
    Times times,
    std::int64_t bytes,
    const Shown& shown) {
  const compat::Lock lock(timing);
  const ErrorAside aside;
  // By index: on_call is Python code, which may start and stop others.
  for (size_t i = 0; i < timers().size(); ++i) {
    const std::shared_ptr<Timer> timer = timers()[i];
    try {
      const size_t row = row_of(*timer, cls, shown);
      if (row >= timer->rows.size()) {
        timer->rows.resize(row + 1);
      }
      timer->rows[row][way].add(times, bytes, next_random());
    } catch (python_error& error) {
      // It is no error of the call.
      error.restore();
      PyErr_WriteUnraisable(timer->on_call.get());
    }
  }
}

std::int64_t nanoseconds(TimedCall::Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

Ref to_python(const Tally& tally) {
  Ref sample = checked(PyList_New(0));
  for (const Times& each : tally.sample) {
    const Ref pair = checked(Py_BuildValue(
        "LL",
        static_cast<long long>(each.total),
        static_cast<long long>(each.user)));
    check_status(PyList_Append(sample.get(), pair.get()));
  }
  return checked(Py_BuildValue(
      "KLLLO",
      static_cast<unsigned long long>(tally.calls),
      static_cast<long long>(tally.total),
      static_cast<long long>(tally.user),
      static_cast<long long>(tally.bytes),
      sample.get()));
}

/// The timer with this number. Throws ValueError if there is none.
std::shared_ptr<Timer> timer_of(PyObject* number) {
  const long long wanted = PyLong_AsLongLong(number);
  if (wanted == -1 && PyErr_Occurred() != nullptr) {
    throw_python_error();
  }
  for (const std::shared_ptr<Timer>& each : timers()) {
    if (each->number == wanted) {
      return each;
    }
  }
  raise(PyExc_ValueError, "nobody times calls as number %lld", wanted);
}

} // namespace

void TimedCall::note_saved(PyObject* const* begin, PyObject* const* end) {
  recorded_ = true;
  for (PyObject* const* item = begin; item != end; ++item) {
    if (!Py_IsNone(*item)) {
      const at::Tensor& tensor = THPVariable_Unpack(*item);
      ++tensors_saved_;
      if (tensor.layout() == at::kStrided &&
          !tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) {
        bytes_saved_ += static_cast<std::int64_t>(tensor.nbytes());
      }
    }
  }
}

void TimedCall::end_forward(
    PyObject* cls,
    PyObject* const* args,
    Py_ssize_t count,
    PyObject* result) {
  const Times times{nanoseconds(Clock::now() - start_), nanoseconds(user_)};
  Ref tuple = checked(PyTuple_New(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(tuple.get(), i, Py_NewRef(args[i]));
  }
  const Shown shown{
      std::move(tuple), Ref::share(result), tensors_saved_, recorded_};
  add(cls, recorded_ ? kRecorded : kPlain, times, bytes_saved_, shown);
}

void TimedCall::end_backward(PyObject* grad_fn) {
  const Times times{nanoseconds(Clock::now() - start_), nanoseconds(user_)};
  const Ref cls = checked(PyObject_GetAttr(grad_fn, names._forward_cls));
  add(cls.get(), kBackward, times, 0, Shown{});
}

PyObject* py_start_timing(PyObject*, PyObject* on_call) {
  return to_slot([&] {
    const compat::Lock lock(timing);
    Ref number = checked(PyLong_FromLongLong(++last_number));
    auto timer = std::make_shared<Timer>();
    timer->number = last_number;
    timer->on_call = Ref::share(on_call);
    timers().push_back(std::move(timer));
    calls_are_timed.store(true, std::memory_order_relaxed);
    return number;
  });
}

PyObject* py_timed_calls(PyObject*, PyObject* number) {
  return to_slot([&] {
    const compat::Lock lock(timing);
    const std::shared_ptr<Timer> timer = timer_of(number);
    Ref rows = checked(PyList_New(0));
    // By index: building objects may run the collector, and so any code.
    for (size_t i = 0; i < timer->rows.size(); ++i) {
      const std::array<Tally, kWays> row = timer->rows[i];
      const Ref tuple = checked(PyTuple_Pack(
          kWays,
          to_python(row[kPlain]).get(),
          to_python(row[kRecorded]).get(),
          to_python(row[kBackward]).get()));
      check_status(PyList_Append(rows.get(), tuple.get()));
    }
    return rows;
  });
}

PyObject* py_stop_timing(PyObject*, PyObject* number) {
  return to_slot([&] {
    // Destroyed last: what on_call holds may run any code.
    std::shared_ptr<Timer> timer;
    const compat::Lock lock(timing);
    timer = timer_of(number);
    std::erase(timers(), timer);
    calls_are_timed.store(!timers().empty(), std::memory_order_relaxed);
    return Ref::share(Py_None);
  });
}

} // namespace torch_ext
