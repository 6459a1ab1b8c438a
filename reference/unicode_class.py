"""Writes worker/text/unicode_class_table.h: what the reference tokenizer knows about characters.

    pip install tokenizers
    python reference/unicode_class.py > worker/text/unicode_class_table.h

Everything is asked of the reference's components, not of a Unicode table, because each of them was built with a
Unicode version of its own: the patterns of Split (\\p{..}, \\s, \\w, letters under (?i:..)), Digits, Punctuation,
Whitespace, StripAccents, Lowercase and the normal forms. Python's own data says only where to look.
"""

import sys
import unicodedata

import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD, Lowercase, StripAccents
from tokenizers.pre_tokenizers import Digits, Punctuation, Split, Whitespace

# Surrogates are no characters.
CODES = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
TEXT = "".join(map(chr, CODES))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs".split()
FORMS = {"NFC": NFC(), "NFD": NFD(), "NFKC": NFKC(), "NFKD": NFKD()}


def matches(pattern, text=TEXT, codes=CODES):
    """The characters that a pattern matches alone."""
    found = set()
    runs = Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    for _, (begin, end) in runs.pre_tokenize_str(text):
        found.update(codes[begin:end])
    return found


def cut_off(pre_tokenizer, companion="a"):
    """The characters that do not stay in one piece with the companion."""
    return {code for code in CODES if len(pre_tokenizer.pre_tokenize_str(companion + chr(code))) != 1}


def ranges_of(values):
    """{code: value} -> [first, last, value], neighbours with one value joined."""
    ranges = []
    for code in sorted(values):
        if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == values[code]:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, values[code]])
    return ranges


def write_rows(declaration, rows):
    print(f"\n{declaration} = {{")
    line = ""
    for row in rows:
        if len(line) + len(row) > 108:
            print(line.rstrip())
            line = ""
        line += row + ", "
    print(line.rstrip())
    print("};")


def write_set(name, members):
    rows = [f"{{0x{first:X}, 0x{last:X}}}" for first, last, _ in ranges_of(dict.fromkeys(members, 0))]
    write_rows(f"static const struct code_range {name}[]", rows)


def write_categories():
    values = {code: category for category in CATEGORIES for code in matches(r"\p{%s}" % category)}
    rows = [f"{{0x{first:X}, 0x{last:X}, CATEGORY_{value.upper()}}}" for first, last, value in ranges_of(values)]
    write_rows("static const struct category_range category_ranges[]", rows)
    return values


def write_folds(categories):
    """Rows of characters that match one another under (?i:..), and what one character and several match."""
    cased = [code for code in CODES
             if categories.get(code) in ("Lu", "Ll", "Lt") or chr(code).swapcase() != chr(code)
             or chr(code).casefold() != chr(code)]
    text = "".join(map(chr, cased))
    classes, seen = [], set()
    for code in cased:
        if code in seen or len(chr(code).casefold()) > 1:
            continue
        same = matches(r"(?i:\x{%X})" % code, text, cased)
        if len(same) > 1:
            classes.append(sorted(same))
        seen |= same
    if max(map(len, classes)) > 4:
        sys.exit("more than four characters fold to one: widen fold_classes")
    rows = ["{" + ", ".join(f"0x{code:X}" for code in one) + "}" for one in classes]
    write_rows("static const uint32_t fold_classes[][4]", rows)
    several = {code: chr(code).casefold() for code in cased if len(chr(code).casefold()) > 1}
    rows = ["{" + f"0x{code:X}, " + "{" + ", ".join(f"0x{ord(c):X}" for c in folded) + "}}"
            for code, folded in sorted(several.items())]
    write_rows("static const struct fold_of_several folds_of_several[]", rows)


def write_lowercase():
    """{first, last, step, delta}: every step-th character from first to last has the lower case code + delta."""
    lowercase = Lowercase()
    deltas = {}
    for code in CODES:
        lower = lowercase.normalize_str(chr(code))
        if lower == chr(code):
            continue
        if len(lower) > 1:
            if code != 0x130:
                sys.exit(f"U+{code:04X} has a lower case of several characters: widen the table")
            continue
        deltas[code] = ord(lower) - code
    rows, left = [], sorted(deltas)
    while left:
        first = left[0]
        step = 1 if first + 1 in deltas and deltas[first + 1] == deltas[first] else 2
        last = first
        while deltas.get(last + step) == deltas[first] and (step == 1 or last + 1 not in deltas):
            last += step
        rows.append(f"{{0x{first:X}, 0x{last:X}, {step}, {deltas[first]}}}")
        left = [code for code in left if code > last]
    write_rows("static const struct lowercase_range lowercase_ranges[]", rows)


def write_normal_forms():
    """Which characters a normal form may change or move, and which may take up what follows them."""
    decompose = FORMS["NFD"].normalize_str

    def has_combining_class(code):
        character = chr(code)
        return decompose(character + "\u0334")[0] != decompose(character)[0] or \
            decompose("\u0301" + character)[0] != "\u0301"

    flags = {code: set() for code in CODES}
    marks = [code for code in CODES if has_combining_class(code)]
    for code in CODES:
        for name, form in FORMS.items():
            if form.normalize_str(chr(code)) != chr(code):
                flags[code].add(name)
    for code in marks:
        flags[code].update(FORMS)
    seconds = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # vowels and final consonants of Hangul
    firsts = set(range(0x1100, 0x1113)) | set(range(0xAC00, 0xD7A4))  # initial consonants, syllables
    for code in CODES:
        decomposed = decompose(chr(code))
        if len(decomposed) > 1:  # a mark that follows may change places with its own
            firsts.add(code)
        if len(decomposed) > 1 and not 0xAC00 <= code <= 0xD7A3:
            seconds.add(ord(decomposed[-1]))
            composed = FORMS["NFC"].normalize_str(decomposed[:-1])
            if FORMS["NFC"].normalize_str(decomposed) == chr(code):
                firsts.add(ord(composed[-1]))
    for code in seconds:
        flags[code].update(("NFC", "NFKC"))
    for code in firsts:
        flags[code].add("BASE")
    values = {code: "|".join("FORM_" + name if name != "BASE" else "FORM_BASE" for name in sorted(names))
              for code, names in flags.items() if names}
    every = "FORM_NFC|FORM_NFD|FORM_NFKC|FORM_NFKD"
    rows = [f"{{0x{first:X}, 0x{last:X}, {value.replace(every, 'FORM_ALL')}}}"
            for first, last, value in ranges_of(values)]
    write_rows("static const struct form_range form_ranges[]", rows)


def main():
    print(f"/* Generated by reference/unicode_class.py from tokenizers {tokenizers.__version__}; do not edit.\n"
          " * Ranges are in ascending order. */")
    print("/* clang-format off */")
    categories = write_categories()
    write_set("space_ranges", matches(r"\s"))
    word = matches(r"[\w]")
    write_set("word_ranges", word)
    write_set("lone_word_ranges", matches(r"\w") - word)  # not within a class: Latin-1's raised digits and fractions
    write_set("numeric_ranges", cut_off(Digits(individual_digits=False)))
    write_set("punctuation_ranges", cut_off(Punctuation()))
    whitespace = Whitespace()
    write_set("crate_word_ranges", {code for code in CODES
                                    if whitespace.pre_tokenize_str("a" + chr(code)) == [("a" + chr(code), (0, 2))]})
    strip = StripAccents()
    write_set("mark_ranges", {code for code in CODES if strip.normalize_str("a" + chr(code)) == "a"})
    write_folds(categories)
    write_lowercase()
    write_normal_forms()
    print("/* clang-format on */")


if __name__ == "__main__":
    main()
