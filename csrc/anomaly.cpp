// One translation unit: parsing torch's headers takes longer than compiling these.
#include <anomaly/anomaly_engine.cpp>
#include <anomaly/lazy_traceback.cpp>
#include <anomaly/metadata.cpp>
#include <anomaly/reporting_engine.cpp>
