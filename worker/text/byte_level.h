/* byte_level: the alphabet of byte-level tokenizers (Radford et al. 2019): every byte of the text is a
 * symbol, written in tokenizer.json as one visible character. */
#ifndef PRESSRUN_WORKER_TEXT_BYTE_LEVEL_H
#define PRESSRUN_WORKER_TEXT_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character (code point, U+0021..U+0143) that stands for a byte: itself where it is visible Latin-1, else
 * the next of U+0100.. */
uint32_t byte_level_character(uint8_t byte);
/* The byte that a character stands for, or -1. */
int byte_level_byte(uint32_t code_point);

/* Rewrites a token as tokenizer.json has it to the bytes it stands for, in place (they are never more).
 * Returns false and changes nothing when a character is none of the alphabet: such a token (usually an added
 * one) stands for its own UTF-8 bytes. */
bool byte_level_decode(char *token, size_t *size);

#endif
