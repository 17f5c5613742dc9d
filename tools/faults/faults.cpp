// SPDX-License-Identifier: BSD-3-Clause
// Makes the n-th call of one shared object fail, of those to CPython, to torch's functions that create Python objects and
// to operator new. The object is used as it was built: its relocations are pointed at the stubs below. x86-64.
#include <Python.h>

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace {

long target = 0; // 0: nothing fails
long count = 0;
const char* failed = nullptr;

} // namespace

// SYMBOLS(X) has X(index, name, failure value, whether an exception is set) for each symbol that can fail.
#include "symbols.h"

extern "C" {

void* faults_real[FAULTS_COUNT];

// Which of them never fail; the last is operator new.
bool faults_exempt[FAULTS_COUNT + 1];

static bool is_due(long i, const char* name) {
  if (target == 0 || faults_exempt[i] || ++count != target) {
    return false;
  }
  failed = name;
  return true;
}

#define NAME(i, name, value, sets_error) #name,
const char* const faults_names[] = {SYMBOLS(NAME)};

#define SETS_ERROR(i, name, value, sets_error) sets_error,
const bool faults_set_error[] = {SYMBOLS(SETS_ERROR)};

long faults_due(long i) {
  if (!is_due(i, faults_names[i])) {
    return 0;
  }
  if (faults_set_error[i]) {
    PyErr_SetString(PyExc_MemoryError, "injected");
  }
  return 1;
}

// A stub leaves everything as it found it, varargs included, and jumps on, or returns the failure value.
// clang-format off: a line for each step
#define STUB(i, name, value, sets_error)                                   \
  void faults_stub_##i();                                                  \
  asm(".text\n.globl faults_stub_" #i "\nfaults_stub_" #i ":\n"            \
      "push %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\n"   \
      "push %rax\n"                                                        \
      "mov $" #i ", %edi\n"                                                \
      "call faults_due@PLT\n"                                              \
      "mov %rax, %r11\n"                                                   \
      "pop %rax\npop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\n" \
      "test %r11, %r11\n"                                                  \
      "jnz 1f\n"                                                           \
      "mov faults_real@GOTPCREL(%rip), %r11\n"                             \
      "jmp *(8 * " #i ")(%r11)\n"                                          \
      "1: mov $" #value ", %rax\nret\n");
// clang-format on
SYMBOLS(STUB)

void* (*real_new)(size_t) = nullptr;

static void* failing_new(size_t size) {
  if (is_due(FAULTS_COUNT, "operator new")) {
    throw std::bad_alloc();
  }
  return real_new(size);
}

} // extern "C"

namespace {

#define STUB_ADDRESS(i, name, value, sets_error) \
  reinterpret_cast<void*>(faults_stub_##i),
void* const stubs[] = {SYMBOLS(STUB_ADDRESS)};

/// What replaces `name`; null if nothing does.
void* replacement(const char* name, void* real) {
  if (std::strcmp(name, "_Znwm") == 0) {
    real_new = reinterpret_cast<void* (*)(size_t)>(real);
    return reinterpret_cast<void*>(failing_new);
  }
  for (int i = 0; i < FAULTS_COUNT; ++i) {
    if (std::strcmp(name, faults_names[i]) == 0) {
      faults_real[i] = real;
      return stubs[i];
    }
  }
  return nullptr;
}

using Relocation = ElfW(Rela);
using Symbol = ElfW(Sym);

/// Whether it is a function. Types, say, are imported by name as well.
bool is_function(void* address) {
  Dl_info info{};
  void* symbol = nullptr;
  return dladdr1(address, &info, &symbol, RTLD_DL_SYMENT) != 0 &&
      symbol != nullptr &&
      ELF64_ST_TYPE(static_cast<const Symbol*>(symbol)->st_info) == STT_FUNC;
}

void write_slot(void** slot, void* value) {
  const auto page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* page = reinterpret_cast<void*>(
      reinterpret_cast<uintptr_t>(slot) & ~(page_size - 1));
  mprotect(page, page_size, PROT_READ | PROT_WRITE);
  *slot = value;
}

} // namespace

extern "C" {

/// Points the relocations of the loaded library at the stubs. Returns how many; -1 if it isn't loaded.
int faults_install(const char* path) {
  void* handle = dlopen(path, RTLD_NOLOAD | RTLD_NOW);
  link_map* map = nullptr;
  if (handle == nullptr || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) {
    return -1;
  }
  const Relocation* tables[2] = {};
  size_t sizes[2] = {};
  const Symbol* symbols = nullptr;
  const char* strings = nullptr;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    auto* address = reinterpret_cast<const char*>(entry->d_un.d_ptr);
    switch (entry->d_tag) {
      case DT_JMPREL:
        tables[0] = reinterpret_cast<const Relocation*>(address);
        break;
      case DT_PLTRELSZ:
        sizes[0] = entry->d_un.d_val;
        break;
      case DT_RELA:
        tables[1] = reinterpret_cast<const Relocation*>(address);
        break;
      case DT_RELASZ:
        sizes[1] = entry->d_un.d_val;
        break;
      case DT_SYMTAB:
        symbols = reinterpret_cast<const Symbol*>(address);
        break;
      case DT_STRTAB:
        strings = address;
        break;
    }
  }
  int installed = 0;
  for (int table = 0; table < 2; ++table) {
    for (size_t i = 0; i < sizes[table] / sizeof(Relocation); ++i) {
      const Relocation& relocation = tables[table][i];
      const auto type = ELF64_R_TYPE(relocation.r_info);
      const Symbol& symbol = symbols[ELF64_R_SYM(relocation.r_info)];
      if ((type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) ||
          symbol.st_shndx != SHN_UNDEF) {
        continue;
      }
      const char* name = strings + symbol.st_name;
      void* real = dlsym(RTLD_DEFAULT, name);
      void* stub = is_function(real) ? replacement(name, real) : nullptr;
      if (stub != nullptr) {
        write_slot(
            reinterpret_cast<void**>(map->l_addr + relocation.r_offset), stub);
        ++installed;
      }
    }
  }
  return installed;
}

/// Makes the n-th call from now on fail.
void faults_start(long n) {
  count = 0;
  failed = nullptr;
  target = n;
}

/// The function whose call failed; null if none did.
const char* faults_stop() {
  target = 0;
  return failed;
}

} // extern "C"
