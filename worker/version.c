#include "worker/version.h"

#include <jansson.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>

const char *pressrun_version(void) {
    return "0.1.0";
}

const char *pressrun_commit(void) {
    return PRESSRUN_COMMIT;
}

enum status version_write(struct buffer *out) {
    unsigned xxhash = XXH_versionNumber();
    return buffer_printf(out,
                         "pressrun %s (%s), backends: cpu%s\n"
                         "libyaml %s, zlib %s, jansson %s, xxHash %u.%u.%u\n",
                         pressrun_version(), pressrun_commit(), PRESSRUN_CUDA ? ", cuda" : "",
                         yaml_get_version_string(), zlibVersion(), JANSSON_VERSION, xxhash / 10000,
                         xxhash / 100 % 100, xxhash % 100);
}
