#include "worker/version.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#include <string.h>
#include <zlib.h>

const char *pressrun_version(void) {
    return "0.1.0";
}

const char *pressrun_commit(void) {
    return PRESSRUN_COMMIT;
}

enum status version_write(struct buffer *out) {
    unsigned xxhash = XXH_versionNumber();
    char pcre2[64] = "?"; /* "10.42 2022-12-11" */
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre2)
        pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    pcre2[strcspn(pcre2, " ")] = '\0';
    return buffer_printf(out,
                         "pressrun %s (%s), backends: cpu%s\n"
                         "libyaml %s, zlib %s, jansson %s, xxHash %u.%u.%u, PCRE2 %s, utf8proc %s\n",
                         pressrun_version(), pressrun_commit(), PRESSRUN_CUDA ? ", cuda" : "",
                         yaml_get_version_string(), zlibVersion(), JANSSON_VERSION, xxhash / 10000,
                         xxhash / 100 % 100, xxhash % 100, pcre2, utf8proc_version());
}
