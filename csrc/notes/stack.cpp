// SPDX-License-Identifier: BSD-3-Clause
#include <notes/stack.h>

#include <compat.h>

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <array>

namespace torch_ext {

namespace {

using Codes = c10::SmallVector<PyCodeObject*, 128>;
using SharedPath = std::shared_ptr<const CodePath>;

/// The paths that were met last, by hash, as long as a stack leads through them:
/// a program makes its nodes on few paths, and a path that is known costs no
/// reference to each of its codes. None is kept alive: what torch.compile has
/// made of a function hangs on its code.
constexpr std::size_t kPathBits = 8;
using KnownPaths =
    std::array<std::weak_ptr<const CodePath>, std::size_t{1} << kPathBits>;

KnownPaths& known_paths() {
  // Never destroyed, since a thread may outlive Python's end.
  static auto* paths = new KnownPaths;
  return *paths;
}

// Guards them on Python without a GIL.
compat::Mutex knowing_paths;

/// A slot of known_paths().
std::size_t hash(const Codes& codes) {
  std::uint64_t hash = codes.size();
  for (const PyCodeObject* code : codes) {
    hash = (hash ^ reinterpret_cast<std::uintptr_t>(code)) *
        0x9e3779b97f4a7c15; // 2^64 by the golden ratio
  }
  return hash >> (64 - kPathBits);
}

bool leads_through(const SharedPath& path, const Codes& codes) {
  return path != nullptr &&
      std::equal(
             codes.begin(),
             codes.end(),
             path->begin(),
             path->end(),
             [](PyCodeObject* code, const Ref& known) {
               return reinterpret_cast<PyObject*>(code) == known.get();
             });
}

SharedPath make_path(const Codes& codes) {
  auto path = std::make_shared<CodePath>();
  path->reserve(codes.size());
  for (PyCodeObject* code : codes) {
    path->push_back(Ref::share(reinterpret_cast<PyObject*>(code)));
  }
  return path;
}

SharedPath path_through(const Codes& codes) {
  const compat::Lock lock(knowing_paths);
  auto& slot = known_paths()[hash(codes)];
  SharedPath path = slot.lock();
  if (!leads_through(path, codes)) {
    path = make_path(codes);
    slot = path;
  }
  return path;
}

} // namespace

Stack capture_stack(std::size_t most) {
  // On the stack first, since the number of frames is not known before. The
  // codes are borrowed from frames, which don't end meanwhile.
  Codes codes;
  c10::SmallVector<int, 128> instructions;
  compat::for_each_frame([&](PyCodeObject* code, int instruction) {
    codes.push_back(code);
    instructions.push_back(instruction);
    return codes.size() < most;
  });
  return {path_through(codes), {instructions.begin(), instructions.end()}};
}

} // namespace torch_ext
