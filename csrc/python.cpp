// One translation unit: parsing torch's headers takes longer than compiling these.
#include <python/names.cpp>
