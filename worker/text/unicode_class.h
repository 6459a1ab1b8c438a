/* unicode_class: letters, numbers and white space as the reference tokenizer's patterns see them (\p{L},
 * \p{N}, \s), from a table that is generated from the reference (reference/unicode_class.py): the same on
 * every host, whatever Unicode version its libraries have. */
#ifndef PRESSRUN_WORKER_TEXT_UNICODE_CLASS_H
#define PRESSRUN_WORKER_TEXT_UNICODE_CLASS_H

#include <stdint.h>

enum unicode_class { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE };

enum unicode_class unicode_class_of(uint32_t code_point);

#endif
