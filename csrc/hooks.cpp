// One translation unit: parsing torch's headers takes longer than compiling these.
#include <hooks/hook_dict.cpp>
#include <hooks/hook_methods.cpp>
#include <hooks/node_post_hook.cpp>
#include <hooks/node_pre_hook.cpp>
#include <hooks/post_accumulate_grad_hook.cpp>
#include <hooks/register.cpp>
#include <hooks/tensor_pre_hook.cpp>
