/* temp_folder: a folder for the files of one test program, removed at its end. */
#ifndef PRESSRUN_TESTS_UNIT_TEMP_FOLDER_H
#define PRESSRUN_TESTS_UNIT_TEMP_FOLDER_H

#include <stddef.h>

/* cmocka group setup and teardown: makes the folder under $TMPDIR or /tmp; removes it with all it holds. */
int temp_folder_open(void **state);
int temp_folder_close(void **state);

/* Path of a name in the folder, in one of eight buffers that are used in turn. */
const char *temp_path(const char *name);
/* Writes a file there and returns its path likewise. Ends the test when it cannot. */
const char *temp_file(const char *name, const void *bytes, size_t size);
const char *temp_text(const char *name, const char *text);

#endif
