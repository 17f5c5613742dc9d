// One translation unit: parsing torch's headers takes longer than compiling these.
#include <function/apply.cpp>
#include <function/apply_callable.cpp>
#include <function/arguments.cpp>
#include <function/attributes.cpp>
#include <function/class_record.cpp>
#include <function/compiled_autograd.cpp>
#include <function/inputs.cpp>
#include <function/jvp.cpp>
#include <function/methods.cpp>
#include <function/modes.cpp>
#include <function/node.cpp>
#include <function/outputs.cpp>
#include <function/profile.cpp>
#include <function/saved.cpp>
#include <function/state.cpp>
#include <function/user_backward.cpp>
