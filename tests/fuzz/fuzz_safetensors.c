/* Fuzzes safetensors files: what is accepted must be readable to its last byte.
 *
 *   clang -fsanitize=fuzzer,address,undefined …   or, over given files,   cc -DFUZZ_STANDALONE … */
#include "tests/fuzz/fuzz_standalone.h"

#include "tests/fuzz/fuzz_folder.h"
#include "worker/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors *files;
    enum status status = safetensors_open_folder(fuzz_folder_write("model.safetensors", data, size), &files);
    fuzz_check_refusal(status);
    if (status != STATUS_OK)
        return 0;
    struct hash128 hash;
    if (safetensors_fingerprint(files, &hash) != STATUS_OK)
        abort();
    for (int32_t i = 0; i < safetensors_count(files); i++) {
        const struct stored_tensor *tensor = safetensors_at(files, i);
        uint8_t bytes[256];
        for (size_t at = 0, n; at < tensor->bytes; at += n) {
            n = tensor->bytes - at < sizeof bytes ? tensor->bytes - at : sizeof bytes;
            if (stored_tensor_read(tensor, at, n, bytes) != 0)
                abort();
        }
        if (safetensors_find(files, tensor->name) != tensor)
            abort();
    }
    safetensors_close(files);
    return 0;
}
