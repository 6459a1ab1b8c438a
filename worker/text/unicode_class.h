/* unicode_class: what the reference tokenizer knows about characters, from a table that is generated from it
 * (reference/unicode_class.py): the same on every host, whatever Unicode version its libraries have. The
 * reference's components were built with Unicode versions of their own, so there is a set for each. */
#ifndef PRESSRUN_WORKER_TEXT_UNICODE_CLASS_H
#define PRESSRUN_WORKER_TEXT_UNICODE_CLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LAST_CODE_POINT = 0x10FFFF };

/* A set of characters: ranges in ascending order that neither touch nor overlap. */
struct code_range {
    uint32_t first;
    uint32_t last;
};
struct code_ranges {
    const struct code_range *ranges; /* [n] */
    size_t n;
};

/* General categories as patterns see them (\p{Lu}). What no other has is CATEGORY_CN. */
enum category {
    CATEGORY_CN,
    CATEGORY_LU,
    CATEGORY_LL,
    CATEGORY_LT,
    CATEGORY_LM,
    CATEGORY_LO,
    CATEGORY_MN,
    CATEGORY_MC,
    CATEGORY_ME,
    CATEGORY_ND,
    CATEGORY_NL,
    CATEGORY_NO,
    CATEGORY_PC,
    CATEGORY_PD,
    CATEGORY_PS,
    CATEGORY_PE,
    CATEGORY_PI,
    CATEGORY_PF,
    CATEGORY_PO,
    CATEGORY_SM,
    CATEGORY_SC,
    CATEGORY_SK,
    CATEGORY_SO,
    CATEGORY_ZS,
    CATEGORY_ZL,
    CATEGORY_ZP,
    CATEGORY_CC,
    CATEGORY_CF,
    CATEGORY_CO,
    CATEGORY_CS
};
struct category_range {
    uint32_t first;
    uint32_t last;
    enum category category;
};
/* All categories but CN, in ascending order. */
const struct category_range *unicode_categories(size_t *n);

/* Named sets. */
struct code_ranges unicode_space(void);      /* white space, everywhere: \s, lstrip, WhitespaceSplit, Strip */
struct code_ranges unicode_word(void);       /* \w of patterns, within classes … */
struct code_ranges unicode_lone_word(void);  /* … and what it has besides where it stands alone */
struct code_ranges unicode_crate_word(void); /* \w of the pre-tokenizer Whitespace and of single_word */
struct code_ranges unicode_numeric(void);    /* Digits */
struct code_ranges unicode_punctuation(void); /* Punctuation */
struct code_ranges unicode_mark(void);        /* StripAccents */

bool code_ranges_contain(struct code_ranges set, uint32_t code_point);
bool unicode_is_space(uint32_t code_point);

/* The characters that a character matches under (?i:..), itself included: writes them to out and returns how
 * many, 1..4. */
size_t unicode_fold_class(uint32_t code_point, uint32_t out[4]);
/* Characters that match several under (?i:..), ß and "ss": `folded` [1..3], zeros behind it. */
struct fold_of_several {
    uint32_t code_point;
    uint32_t folded[3];
};
const struct fold_of_several *unicode_folds_of_several(size_t *n);

/* Lower case of one character, 1 or 2 characters; returns how many. */
size_t unicode_lowercase(uint32_t code_point, uint32_t out[2]);

/* What normal forms do to a character. FORM_NFC and the like: the form may change it, move it, or join it to
 * what stands before it. FORM_BASE: what follows may be joined to it. */
enum { FORM_NFC = 1, FORM_NFD = 2, FORM_NFKC = 4, FORM_NFKD = 8, FORM_ALL = 15, FORM_BASE = 16 };
struct form_range {
    uint32_t first;
    uint32_t last;
    uint8_t flags;
};
const struct form_range *unicode_forms(size_t *n); /* what is in no range has no flag */

#endif
