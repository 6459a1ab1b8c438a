/* safetensors: views, dtypes, shards, fingerprint; conversion and transposition beside the definition; files
 * that are cut under us. What must be refused is in test_bad_model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/model_folder.h"
#include "tests/unit/temp_folder.h"
#include "worker/base/arith.h"
#include "worker/base/parallel.h"
#include "worker/model/float_convert.h"
#include "worker/model/safetensors.h"
#include "worker/model/weight_convert.h"
#include "worker/model/weight_rows.h"

static struct safetensors *open_header(const char *header, size_t n_data_bytes) {
    struct safetensors *files;
    model_folder_tensors("a.safetensors", header, n_data_bytes);
    if (safetensors_open_file(temp_path("a.safetensors"), &files) != STATUS_OK)
        fail_msg("%s", status_message());
    return files;
}

#define ENTRY(name, dtype, shape, begin, end)                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void test_views(void **state) {
    (void)state;
    /* Not in order of place, padded with blanks, with metadata, an empty tensor and a scalar. */
    struct safetensors *files = open_header(
        "{" ENTRY("z", "U8", "[3]", 8, 11) "," ENTRY("m", "F32", "[2,1]", 0, 8) "," ENTRY(
            "empty", "F16", "[0,7]", 11, 11) "," ENTRY("scalar", "I32", "[]", 11,
                                                       15) ",\"__metadata__\":{\"format\":\"pt\"}}   ",
        15);
    assert_int_equal(safetensors_count(files), 4);
    static const char *const names[] = {"empty", "m", "scalar", "z"};
    for (int i = 0; i < 4; i++)
        assert_string_equal(safetensors_at(files, i)->name, names[i]);
    struct stored_tensor *tensor = safetensors_find(files, "z");
    assert_non_null(tensor);
    assert_int_equal(tensor->dtype, STORED_OTHER);
    assert_string_equal(tensor->dtype_name, "U8");
    assert_int_equal(tensor->bytes, 3);
    uint8_t bytes[3];
    assert_int_equal(stored_tensor_read(tensor, 1, 2, bytes), 0);
    assert_int_equal(bytes[0], 9);
    assert_int_equal(bytes[1], 10);
    assert_int_equal(safetensors_find(files, "scalar")->n, 1);
    assert_int_equal(safetensors_find(files, "empty")->n, 0);
    assert_null(safetensors_find(files, "y"));

    assert_int_equal(safetensors_get(files, "m", 2, 2, 1, &tensor), STATUS_OK);
    assert_true(tensor->used);
    assert_int_equal(safetensors_get(files, "m", 2, 1, 2, &tensor), STATUS_DATA);
    assert_non_null(
        strstr(status_message(), "tensor \"m\" has the shape [2, 1], but config.json asks for [1, 2]"));
    assert_int_equal(safetensors_get(files, "m", 1, 2, 0, &tensor), STATUS_DATA);
    assert_int_equal(safetensors_get(files, "absent", 1, 2, 0, &tensor), STATUS_DATA);
    assert_non_null(strstr(status_message(), "tensor \"absent\" [2] is missing from"));
    struct weight_rows rows;
    assert_int_equal(
        weight_rows_stored(&rows, safetensors_find(files, "z"), WEIGHT_OUT_IN, 1, 3, DTYPE_FLOAT32),
        STATUS_DATA);
    assert_non_null(
        strstr(status_message(), "tensor \"z\" is stored as U8; supported are F32, F16 and BF16"));
    safetensors_close(files);
}

/* binary16 by its definition: sign, 5 bits of exponent, 10 of fraction. */
static double half_value(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void test_float_formats(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits <= UINT16_MAX; bits++) {
        float half = float_from_half((uint16_t)bits);
        bool is_special = (bits & 0x7C00) == 0x7C00, is_nan = is_special && (bits & 0x3FF);
        assert_int_equal(isnan(half) != 0, is_nan);
        assert_int_equal(isinf(half) != 0, is_special && !is_nan);
        if (!is_special)
            assert_true((double)half == half_value((uint16_t)bits));
        assert_int_equal(signbit(half) != 0, bits >> 15);
        float brain = float_from_bfloat16((uint16_t)bits);
        if (!isnan(brain))
            assert_int_equal(bfloat16_from_float(brain), bits); /* there and back */
        else
            assert_true(isnan(float_from_bfloat16(bfloat16_from_float(brain))));
    }
    /* To the nearest, ties to even: 1 + k/256 lies between 1 + 0/128 and 1 + 1/128, and so on. */
    assert_int_equal(bfloat16_from_float(1.0f + 1.0f / 256), 0x3F80);
    assert_int_equal(bfloat16_from_float(1.0f + 3.0f / 256), 0x3F82);
    assert_int_equal(bfloat16_from_float(1.0f + 1.0f / 256 + 0x1p-20f), 0x3F81);
    assert_int_equal(bfloat16_from_float(3.4e38f), 0x7F80); /* beyond the largest */
    assert_int_equal(bfloat16_from_float(-0.0f), 0x8000);
}

/* The value at (row, column) of the stored matrix. */
static float pattern(int64_t row, int64_t column) {
    return (float)(row * 1000 + column) / 7;
}

/* A file without a name that holds n bytes, one byte off any alignment. */
static struct stored_tensor stored_bytes(enum stored_dtype dtype, const void *bytes, size_t n_bytes) {
    size_t element_bytes = weight_stored_bytes(dtype) ? weight_stored_bytes(dtype) : 1;
    int fd = memfd_create("tensor", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n_bytes, 1), n_bytes);
    return (struct stored_tensor){.name = "w",
                                  .file = "f",
                                  .dtype = dtype,
                                  .fd = fd,
                                  .offset = 1,
                                  .bytes = n_bytes,
                                  .n = n_bytes / element_bytes};
}

static struct stored_tensor stored_pattern(int64_t rows, int64_t columns, enum stored_dtype dtype) {
    size_t bytes = weight_stored_bytes(dtype), n_bytes = (size_t)(rows * columns) * bytes;
    char *out = malloc(n_bytes);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            float value = pattern(r, c);
            uint16_t narrow = bfloat16_from_float(value);
            memcpy(out + (size_t)(r * columns + c) * bytes,
                   dtype == STORED_F32 ? (void *)&value : (void *)&narrow, bytes);
        }
    struct stored_tensor tensor = stored_bytes(dtype, out, n_bytes);
    free(out);
    return tensor;
}

struct runs {
    struct weight_rows *rows;
    int64_t n_at_once;
    char *out;
};

static void read_run(void *argument, int64_t run) {
    const struct runs *runs = argument;
    int64_t first = run * runs->n_at_once, left = runs->rows->n_out - first;
    weight_rows_read(runs->rows, first, left < runs->n_at_once ? left : runs->n_at_once,
                     runs->out + (size_t)(first * runs->rows->n_in) * dtype_bytes(runs->rows->dtype));
}

/* Reads in runs of n_at_once rows, by threads where they are many. */
static void check_rows(int64_t n_out, int64_t n_in, enum stored_dtype stored, enum weight_layout layout,
                       enum dtype dtype, int64_t n_at_once) {
    int64_t rows = layout == WEIGHT_OUT_IN ? n_out : n_in, columns = layout == WEIGHT_OUT_IN ? n_in : n_out;
    struct stored_tensor tensor = stored_pattern(rows, columns, stored);
    char *out = malloc((size_t)(n_out * n_in) * dtype_bytes(dtype));
    struct weight_rows reader;
    assert_int_equal(weight_rows_stored(&reader, &tensor, layout, n_out, n_in, dtype), STATUS_OK);
    struct runs runs = {&reader, n_at_once, out};
    parallel_run(ceil_divide(n_out, n_at_once), n_out > 1000, read_run, &runs);
    assert_int_equal(weight_rows_check(&reader), STATUS_OK);
    assert_null(reader.staged.image);
    for (int64_t o = 0; o < n_out; o++)
        for (int64_t i = 0; i < n_in; i++) {
            float expected = layout == WEIGHT_OUT_IN ? pattern(o, i) : pattern(i, o);
            size_t at = (size_t)(o * n_in + i);
            if (stored == STORED_BF16)
                expected = float_from_bfloat16(bfloat16_from_float(expected));
            if (dtype == DTYPE_FLOAT32)
                assert_true(((float *)(void *)out)[at] == expected);
            else
                assert_int_equal(((uint16_t *)(void *)out)[at], bfloat16_from_float(expected));
        }
    free(out);
    close(tensor.fd);
}

static void test_rows(void **state) {
    (void)state;
    static const int64_t sizes[][2] = {{1, 1},   {3, 5},   {64, 64},   {65, 63},    {130, 70},
                                       {1, 200}, {200, 1}, {384, 300}, {2100, 1001}};
    static const int64_t runs[] = {1, 7, 64, 100, 2100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t run = 0; run < sizeof runs / sizeof runs[0]; run++)
            for (int way = 0; way < 8; way++)
                check_rows(sizes[i][0], sizes[i][1], way & 1 ? STORED_F32 : STORED_BF16,
                           way & 2 ? WEIGHT_IN_OUT : WEIGHT_OUT_IN, way & 4 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32,
                           runs[run]);
}

/* Every value of the 16-bit formats, and float32 around every rounding of bfloat16: like one at a time. */
static void test_conversion(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    static uint16_t narrow[N], to_narrow[N];
    static float wide[3 * N], to_wide[3 * N];
    static uint16_t from_wide[3 * N];
    for (uint32_t i = 0; i < N; i++) {
        narrow[i] = (uint16_t)i;
        for (uint32_t k = 0; k < 3; k++)
            wide[3 * i + k] = float_from_bits(i << 16 | (0x7FFFu + k));
    }
    int64_t n_bad = 0;
    for (int i = 0; i < 3 * N; i++)
        n_bad += !isfinite(float_from_bfloat16(bfloat16_from_float(wide[i])));
    assert_int_equal(weight_convert(STORED_F32, wide, 3 * N, DTYPE_BFLOAT16, from_wide), n_bad);
    for (int i = 0; i < 3 * N; i++)
        assert_int_equal(from_wide[i], bfloat16_from_float(wide[i]));
    weight_convert(STORED_F32, wide, 3 * N, DTYPE_FLOAT32, to_wide);
    assert_memory_equal(to_wide, wide, sizeof wide);

    assert_int_equal(weight_convert(STORED_BF16, narrow, N, DTYPE_BFLOAT16, to_narrow), 256);
    assert_memory_equal(to_narrow, narrow, sizeof narrow);
    assert_int_equal(weight_convert(STORED_BF16, narrow, N, DTYPE_FLOAT32, to_wide), 256);
    for (int i = 0; i < N; i++)
        assert_int_equal(float_bits(to_wide[i]), (uint32_t)i << 16);
    assert_int_equal(weight_convert(STORED_F16, narrow, N, DTYPE_FLOAT32, to_wide), 2048);
    assert_int_equal(weight_convert(STORED_F16, narrow, N, DTYPE_BFLOAT16, to_narrow), 2048);
    for (int i = 0; i < N; i++) {
        assert_int_equal(float_bits(to_wide[i]), float_bits(float_from_half((uint16_t)i)));
        assert_int_equal(to_narrow[i], bfloat16_from_float(to_wide[i]));
    }
}

static void test_rows_count_what_is_not_finite(void **state) {
    (void)state;
    float values[] = {1, NAN, INFINITY, -INFINITY, 3.4e38f, 0};
    struct stored_tensor tensor = stored_bytes(STORED_F32, values, sizeof values);
    float out[6];
    struct weight_rows rows;
    for (int layout = WEIGHT_OUT_IN; layout <= WEIGHT_IN_OUT; layout++) {
        assert_int_equal(weight_rows_stored(&rows, &tensor, layout, 2, 3, DTYPE_FLOAT32), STATUS_OK);
        weight_rows_read(&rows, 0, 1, out);
        weight_rows_read(&rows, 1, 1, out);
        assert_int_equal(rows.n_bad, 3);
        assert_int_equal(weight_rows_check(&rows), STATUS_DATA);
        assert_non_null(strstr(status_message(), "\"w\": 3 of 6 values are NaN or infinite in float32"));
        assert_int_equal(weight_rows_stored(&rows, &tensor, layout, 2, 3, DTYPE_BFLOAT16), STATUS_OK);
        weight_rows_read(&rows, 0, 2, out);
        assert_int_equal(rows.n_bad, 4); /* 3.4e38 rounds to infinity */
    }
    assert_int_equal(weight_rows_stored(&rows, &tensor, WEIGHT_OUT_IN, 2, 2, DTYPE_FLOAT32), STATUS_INTERNAL);
    close(tensor.fd);
}

/* A transposed matrix is given back behind its last row: rows asked for later are refused, not made up. */
static void test_rows_asked_for_again(void **state) {
    (void)state;
    float values[6] = {1, 2, 3, 4, 5, 6}, out[6], again[6] = {0}, untouched[6] = {0};
    struct stored_tensor tensor = stored_bytes(STORED_F32, values, sizeof values);
    struct weight_rows rows;
    for (int n_at_once = 1; n_at_once <= 2; n_at_once++) {
        assert_int_equal(weight_rows_stored(&rows, &tensor, WEIGHT_IN_OUT, 2, 3, DTYPE_FLOAT32), STATUS_OK);
        for (int first = 0; first < 2; first += n_at_once)
            weight_rows_read(&rows, first, n_at_once, out + 3 * first);
        assert_int_equal(weight_rows_check(&rows), STATUS_OK);
        assert_memory_equal(out, ((float[]){1, 3, 5, 2, 4, 6}), sizeof out);
        weight_rows_read(&rows, 0, n_at_once, again);
        assert_memory_equal(again, untouched, sizeof again);
        assert_null(rows.staged.image);
        assert_int_equal(weight_rows_check(&rows), STATUS_INTERNAL);
        assert_non_null(strstr(status_message(), n_at_once == 1 ? "\"w\": 3 rows asked for, of 2;"
                                                                : "\"w\": 4 rows asked for, of 2;"));
        weight_rows_close(&rows);
    }
    close(tensor.fd);
}

/* A file that is cut while it is open: named, and no signal. Matrices that are transposed are read whole. */
static void test_file_cut_while_open(void **state) {
    (void)state;
    enum { LONG = 1024, SHORT = 16 };
    struct safetensors *files = open_header("{" ENTRY("a", "F32", "[1024,16]", 0, 65536) "}", 65536);
    struct stat info;
    assert_int_equal(stat(temp_path("a.safetensors"), &info), 0);
    assert_int_equal(truncate(temp_path("a.safetensors"), info.st_size - 40000), 0);
    static float out[LONG];
    for (int layout = WEIGHT_OUT_IN; layout <= WEIGHT_IN_OUT; layout++) {
        bool is_transposed = layout == WEIGHT_IN_OUT;
        int64_t n_out = is_transposed ? SHORT : LONG, n_in = is_transposed ? LONG : SHORT;
        struct weight_rows rows;
        assert_int_equal(
            weight_rows_stored(&rows, safetensors_find(files, "a"), layout, n_out, n_in, DTYPE_FLOAT32),
            STATUS_OK);
        weight_rows_read(&rows, 0, 1, out);
        assert_int_equal(weight_rows_check(&rows), is_transposed ? STATUS_IO : STATUS_OK);
        weight_rows_read(&rows, n_out - 1, 1, out);
        assert_int_equal(weight_rows_check(&rows), STATUS_IO);
        assert_non_null(strstr(status_message(), "tensor \"a\" cannot be read: the file has become shorter"));
        weight_rows_close(&rows);
    }
    struct hash128 hash;
    assert_int_equal(safetensors_fingerprint(files, &hash), STATUS_IO);
    safetensors_close(files);

    /* Of two that are compared, the one that is cut. */
    files = open_header("{" ENTRY("a", "U8", "[64]", 0, 64) "," ENTRY("b", "U8", "[64]", 64, 128) "}", 128);
    assert_int_equal(stat(temp_path("a.safetensors"), &info), 0);
    assert_int_equal(truncate(temp_path("a.safetensors"), info.st_size - 1), 0);
    bool equal;
    const struct stored_tensor *a = safetensors_find(files, "a"), *b = safetensors_find(files, "b");
    assert_int_equal(stored_tensor_compare(a, b, &equal), STATUS_IO);
    assert_non_null(strstr(status_message(), "tensor \"b\" cannot be read"));
    assert_int_equal(stored_tensor_compare(b, a, &equal), STATUS_IO);
    assert_non_null(strstr(status_message(), "tensor \"b\" cannot be read"));
    safetensors_close(files);
}

/* Wherever the one byte is in which they differ. */
static void test_compare(void **state) {
    (void)state;
    enum { N = 200001 };
    static uint8_t a[N], b[N];
    static const size_t places[] = {0, 65535, 65536, 131071, N - 1};
    for (size_t i = 0; i < N; i++)
        a[i] = b[i] = (uint8_t)(i * 31);
    struct stored_tensor left = stored_bytes(STORED_OTHER, a, N), right = stored_bytes(STORED_OTHER, b, N);
    bool equal = false;
    assert_int_equal(stored_tensor_compare(&left, &right, &equal), STATUS_OK);
    assert_true(equal);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        uint8_t other = b[places[i]] ^ 1;
        off_t place = (off_t)(right.offset + places[i]);
        assert_int_equal(pwrite(right.fd, &other, 1, place), 1);
        assert_int_equal(stored_tensor_compare(&left, &right, &equal), STATUS_OK);
        assert_false(equal);
        assert_int_equal(pwrite(right.fd, &b[places[i]], 1, place), 1);
    }
    right.bytes--;
    assert_int_equal(stored_tensor_compare(&left, &right, &equal), STATUS_OK);
    assert_false(equal);
    right.bytes++;
    right.dtype = STORED_I32;
    assert_int_equal(stored_tensor_compare(&left, &right, &equal), STATUS_OK);
    assert_false(equal);
    close(left.fd);
    close(right.fd);
}

/* ---- fingerprint --------------------------------------------------------------------------------------- */

static void fingerprint_of(struct safetensors *files, char out[HASH128_TEXT_BYTES]) {
    struct hash128 hash;
    assert_int_equal(safetensors_fingerprint(files, &hash), STATUS_OK);
    hash128_text(hash, out);
    safetensors_close(files);
}

static void fingerprint_of_folder(char out[HASH128_TEXT_BYTES]) {
    struct safetensors *files;
    if (safetensors_open_folder(temp_path(""), &files) != STATUS_OK)
        fail_msg("%s", status_message());
    fingerprint_of(files, out);
}

/* The same tensors in one file, in two, and with their hashes begun before: one fingerprint. Any change of a
 * name, dtype, shape or byte: another. */
static void test_fingerprint(void **state) {
    (void)state;
    char whole[HASH128_TEXT_BYTES], other[HASH128_TEXT_BYTES];
    model_folder_tensors("model.safetensors",
                         "{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[2,2]", 4, 8) "}", 8);
    fingerprint_of_folder(whole);

    struct safetensors *files =
        open_header("{" ENTRY("b", "U8", "[2,2]", 4, 8) "," ENTRY("a", "U8", "[4]", 0, 4) "}", 8);
    safetensors_hash_begin(files);
    fingerprint_of(files, other);
    assert_string_equal(whole, other);

    model_folder_remove("model.safetensors");
    model_folder_tensors("x-1.safetensors", "{" ENTRY("a", "U8", "[4]", 0, 4) "}", 4);
    model_folder_tensors("x-2.safetensors", "{" ENTRY("b", "U8", "[2,2]", 0, 4) "}", 4);
    temp_text("model.safetensors.index.json",
              "{\"weight_map\":{\"b\":\"x-2.safetensors\",\"a\":\"x-1.safetensors\"}}");
    if (safetensors_open_folder(temp_path(""), &files) != STATUS_OK)
        fail_msg("%s", status_message());
    int fd = open(temp_path("x-2.safetensors"), O_WRONLY);
    off_t place = (off_t)safetensors_find(files, "b")->offset;
    assert_int_equal(pwrite(fd, "\4\5\6\7", 4, place), 4); /* the bytes that it has in the file of all */
    close(fd);
    fingerprint_of(files, other);
    assert_string_equal(whole, other);
    model_folder_remove("model.safetensors.index.json");

    static const struct {
        const char *header;
        size_t n_data_bytes;
    } changes[] = {
        {"{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("c", "U8", "[2,2]", 4, 8) "}", 8},
        {"{" ENTRY("a", "I8", "[4]", 0, 4) "," ENTRY("b", "U8", "[2,2]", 4, 8) "}", 8},
        {"{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4,1]", 4, 8) "}", 8},
        {"{" ENTRY("b", "U8", "[2,2]", 0, 4) "," ENTRY("a", "U8", "[4]", 4, 8) "}", 8},
        {"{" ENTRY("a", "U8", "[4]", 0, 4) "}", 4},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        fingerprint_of(open_header(changes[i].header, changes[i].n_data_bytes), other);
        assert_string_not_equal(whole, other);
    }
}

/* Closing ends the threads that hash before it gives back what they read. */
static void test_hashes_begun_and_dropped(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct safetensors *files = open_header("{" ENTRY("a", "U8", "[4]", 0, 4) "}", 4);
        safetensors_hash_begin(files);
        safetensors_close(files);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_float_formats),
        cmocka_unit_test(test_conversion),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rows_count_what_is_not_finite),
        cmocka_unit_test(test_rows_asked_for_again),
        cmocka_unit_test(test_file_cut_while_open),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_hashes_begun_and_dropped),
    };
    return cmocka_run_group_tests_name("safetensors", tests, temp_folder_open, temp_folder_close);
}
