// SPDX-License-Identifier: BSD-3-Clause
// What is remembered of the most recent events.
#pragma once

#include <compat.h>

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

namespace torch_ext {

/// Adds `value` and takes out the oldest if there are more than `most` then. The
/// caller drops that once it holds no lock: its end may run any code.
template <typename T>
std::optional<T> remember(std::deque<T>& kept, T value, std::size_t most) {
  std::optional<T> oldest;
  kept.push_back(std::move(value));
  if (kept.size() > most) {
    oldest.emplace(std::move(kept.front()));
    kept.pop_front();
  }
  return oldest;
}

/// Takes out all that is kept under `guard`. Needs the GIL.
template <typename T>
void forget(std::deque<T>& kept, compat::Mutex& guard) {
  std::deque<T> dropped; // after the lock is released
  const compat::Lock lock(guard);
  dropped.swap(kept);
}

} // namespace torch_ext
