// SPDX-License-Identifier: BSD-3-Clause
// What a process asks of the callgrind that it runs under. torch has the header, and some of these as functions, but
// none that starts counting, without which importing torch takes five times as long.
#include <callgrind.h>

extern "C" {
void start_counting() {
  CALLGRIND_START_INSTRUMENTATION;
}
// Writes a file with what all threads have executed since the last one, and counts no more on this thread.
void pause_counting() {
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS;
}
void resume_counting() {
  CALLGRIND_TOGGLE_COLLECT;
}
}
