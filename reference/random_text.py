"""Seeded random text made to find differences between tokenizers: mixtures of what their patterns, normalizers and
added tokens treat apart."""

import random

import sample_text

CONTRACTIONS = ["'s", "'S", "'ſ", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'vE", "'m", "'M", "'ll", "'Ll", "'LL", "'d"]
CONTRACTIONS += ["'D", "'", "''", "’s", "'ſs", "'l", "'r", "'v", "n't", "I'm", "'\u0131", "'K", "s'", " 's"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r", "\r\n", "\t", "\t\t", " \n", "\n ", "\x0b", "\x0c", "\x1c", "\x1f", "\x85"]
SPACES += ["\u00a0", "\u1680", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\u180e"]
NUMBERS = list("0123456789") + ["12", "123", "1234", "00", "3.14", "1,000", "-1", "1e9", "٣", "۴", "५", "๙", "０", "９"]
NUMBERS += ["½", "²", "Ⅷ", "①", "〇", "一", "𝟘", "𝟡", "๑๒", "10%", "$5", "1st", "a1", "1a"]
MARKS = [chr(c) for c in (0x300, 0x301, 0x308, 0x30A, 0x323, 0x327, 0x328, 0x338, 0x345, 0x35C, 0x36B, 0x483, 0x5B0)]
MARKS += [chr(c) for c in (0x5BF, 0x5C1, 0x64B, 0x651, 0x653, 0x670, 0x93C, 0x94D, 0x9BE, 0x9D7, 0xBBE, 0xC56, 0xCC2)]
MARKS += [chr(c) for c in (0xDCA, 0xDCF, 0xE38, 0xE48, 0xF71, 0xF72, 0x102E, 0x1039, 0x135D, 0x17D2, 0x1DC4, 0x20D0)]
MARKS += [chr(c) for c in (0x20E3, 0x302A, 0x3099, 0x309A, 0xA66F, 0xFB1E, 0xFE20, 0x1D165, 0x1D16D, 0x1E8D0, 0x11046)]
# What NFC composes, leaves apart, reorders or replaces.
COMPOSING = ["e\u0301", "A\u030a", "\u212b", "\u2126", "\u212a", "s\u0323\u0307", "s\u0307\u0323", "o\u0328\u0304"]
COMPOSING += ["\u1100\u1161", "\u1100\u1161\u11a8", "가\u11a8", "각\u11a8", "\u1112\u1161\u11ab", "\uac00\u1161"]
COMPOSING += ["\u0958", "\u0915\u093c", "\ufb2a", "\u05e9\u05c1", "\u09c7\u09be", "\u0b47\u0b56", "\u0dd9\u0dca"]
COMPOSING += ["\u30ab\u3099", "ガ", "\u1e9b\u0323", "\u0344", "\u0308\u0301", "\u2adc", "\uf900", "\U0002f800", "ﬁ"]
COMPOSING += ["\U0001d15e", "\U00011131\U00011127", "\u0340", "\u0374", "\u0387", "\u1f71", "\u03b1\u0301", "İ", "ı"]
COMPOSED = list("éèüñåçÅǖǭṩễộḗẛΐᾴἆỾйїѓәגּשּׁऩक़়ড়ଡ଼ொോೋ가각힣がパヾ漢") + ["a\u0323", "o\u0328", "\u1100\u1161"]
EMOJI = ["😀", "👍", "👩", "🚀", "❤", "☎", "🏴", "🇩", "🇪", "🇫", "🇷", "1️⃣", "👨‍👩‍👧", "👍🏽", "🫠", "🪿", "©", "™", "〰"]
EMOJI += ["\u200d", "\ufe0f", "\ufe0e", "\U0001f3fb", "\U0001f3ff", "\U000e0067", "\U000e007f", "\u20e3"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "!!!", "?!", "::", "/*", "*/", "//", "</", "/>"]
PUNCTUATION += list("¡¿«»“”‘’—–…•·。、「」！？،؛؟।၊།_‿⁀") + ["!\n", ".\n\n", ";\r\n", ",\n"]
SYMBOLS = list("+<=>|~¢£¥€±×÷√∞≠≤∀∃∑→←↑↓■□▪▫★☆♠♥♪♫✓✗") + ["▁", "▁▁", "Ġ", "Ċ", "<0x41>", "<0x0A>", "<unk>", "\ufffd"]
CONTROLS = [chr(c) for c in (*range(0, 32), 0x7F, *range(0x80, 0xA0), 0xAD, 0x200E, 0x200F, 0x202A, 0x2066, 0xFFF9)]
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") + list("ßſıİŉǅǆªºʰˈﬀŁłÆØÐþ𝐀𝕒Kάσς")
RANGES = [(0x80, 0x24F), (0x250, 0x2FF), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x5FF), (0x600, 0x6FF), (0x700, 0x8FF)]
RANGES += [(0x900, 0xDFF), (0xE00, 0xFFF), (0x1000, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x17FF), (0x1800, 0x1EFF)]
RANGES += [(0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x2C00, 0x2FFF), (0x3000, 0x33FF), (0x3400, 0x9FFF)]
RANGES += [(0xA000, 0xABFF), (0xAC00, 0xD7FF), (0xE000, 0xF8FF), (0xF900, 0xFFFF), (0x10000, 0x10FFF)]
RANGES += [(0x11000, 0x16FFF), (0x17000, 0x1AFFF), (0x1B000, 0x1FFFF), (0x20000, 0x3FFFF), (0xE0000, 0x10FFFF)]


class RandomText:
    """Strings of 0 to some 100 pieces. The same seed and added tokens give the same strings."""

    def __init__(self, seed, added_tokens=()):
        self.rng = random.Random(seed)
        words = [word for line in sample_text.ENGLISH.split("\n") for word in line.split(" ") if word]
        foreign = [word for line in sample_text.OTHERS.split("\n") for word in line.split(" ") if word]
        code = [word for line in sample_text.CODE.split("\n") for word in line.split(" ") if word]
        self.pools = [words, [" " + word for word in words], foreign, [" " + word for word in foreign], code]
        self.pools += [CONTRACTIONS, SPACES, NUMBERS, MARKS, COMPOSING, EMOJI, PUNCTUATION, SYMBOLS, CONTROLS, LETTERS]
        self.pools += [[self.marked() for _ in range(2000)]]
        self.pools += [self.points(*bounds) for bounds in RANGES]
        self.weights = [6, 8, 6, 6, 5, 5, 8, 6, 3, 4, 4, 5, 3, 2, 5, 5] + [0.6] * len(RANGES)
        if added_tokens:
            self.pools += [list(added_tokens), self.fragments(added_tokens)]
            self.weights += [4, 3]
        self.numbers = range(len(self.pools))

    def marked(self):
        """A letter, composed or not, with combining marks in any order."""
        letter = self.rng.choice(self.rng.choice((COMPOSED, LETTERS, COMPOSING)))
        return letter + "".join(self.rng.choices(MARKS, k=self.rng.randrange(1, 4)))

    def points(self, first, last):
        """Single characters and short runs of neighbours within a range of code points."""
        texts = [chr(self.rng.randint(first, last)) for _ in range(400)]
        for _ in range(200):
            begin = self.rng.randint(first, last)
            texts.append("".join(chr(min(begin + self.rng.randrange(12), last)) for _ in range(3)))
        return texts

    def fragments(self, tokens):
        """Beginnings, ends and near misses of added tokens."""
        texts = []
        for token in tokens if len(tokens) <= 300 else self.rng.sample(list(tokens), 300):
            at = self.rng.randint(0, len(token))
            texts += [token[:at], token[at:], token.upper(), token.lower(), token[:at] + " " + token[at:]]
            texts += [" " + token, token + " ", "\n" + token + "\t", token + token[:at], token + "\u0301"]
        return texts

    def run(self, text):
        """A long repetition now and then; mostly a short one."""
        return text * (self.rng.randrange(2, 6) if self.rng.random() < 0.95 else self.rng.randrange(6, 80))

    def text(self):
        rng, pick = self.rng, self.rng.random
        # Few kinds of pieces in one string, so that they meet each other often.
        pools = [self.pools[i] for i in rng.choices(self.numbers, self.weights, k=rng.randrange(1, 5))]
        n_pools = len(pools)
        length = int(rng.expovariate(0.12)) if pick() < 0.97 else rng.randrange(40, 120)
        pieces = []
        for _ in range(length):
            pool = pools[int(pick() * n_pools)]
            piece = pool[int(pick() * len(pool))]
            if pick() < 0.03:
                piece = self.run(piece)
            pieces.append(piece)
            if pick() < 0.15:
                pieces.append(" ")
        return "".join(pieces)

    def texts(self, n):
        return [self.text() for _ in range(n)]
