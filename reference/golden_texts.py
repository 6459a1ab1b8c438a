"""Texts for the tokenizer tests: hand-picked corners, then seeded random mixtures of them."""

import string

ENGLISH = [
    "ROMEO:\nBut, soft! what light through yonder window breaks?",
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.",
    "O Romeo, Romeo! wherefore art thou Romeo?",
    "To be, or not to be: that is the question:\nWhether 'tis nobler in the mind to suffer",
    "I'll, you've, he'd, they're, it's, can't, I'm: 'tis, 'll 're 've 's 't 'd 'm",
    "KING RICHARD III:\nA horse! a horse! my kingdom for a horse!\n",
    "the the the the the", "a", "A", " ", "\n", "  ", "\n\n", " \n ", "\n\n\n\n", "x ", " x", "  x", "x  y", "x   y\n",
    "Tomorrow, and tomorrow, and tomorrow,\nCreeps in this petty pace from day to day",
    "--", "...", "!?!?", ";:;:", "a-b-c", "a--b", "Hath not a Jew eyes?", "zzzzzzzz", "QXZJKV", "qxzjkv",
]

CORNERS = [
    # what ByteLevel's pattern treats apart: contractions, letters, digits, others, white space
    "I'LL YOU'VE HE'D IT'S", "don't'x 's's", "it’s “quoted”", "x1y22z333", "1234567890", "3.14159e-10", "1,000,000.00",
    "v2.0.1-rc3", "0x1F600", "٣٤٥ १२३ ๑๒๓", "½ ² Ⅷ ①", "a1!b2?c3.", "!!!", "#$%&()*+,-./:;<=>?@[\\]^_`{|}~",
    "def f(x):\n    return x * 2\n\n\nclass A:\n\tpass\n", "{\"key\": [1, 2.5, null, true]}", "<p class=\"a\">text</p>",
    "https://example.org/a/b?c=d&e=f#g", "user@example.org", "C:\\Windows\\System32", "SELECT * FROM t WHERE a <> 'b';",
    # white space
    "\t", "\t\t\tx", "a\tb", "\r\n", "a\r\nb\r\n", " \t \n \r\n ", "tail   ", "   head", "a          b", "\u00a0",
    "a\u00a0b",
    "\u2003em\u2003space", "\u3000全角", "a\u200bb", "\u2028line\u2029paragraph", "a\x0bb\x0cc", "\x85next", " \u00a0 ",
    # control characters (NUL is left out: many JSON readers refuse it)
    "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "a\x08b", "\x1f \x1e", "\ufeffBOM", "\ufffd", "\u0080\u009f",
    # scripts
    "Ça va très bien, garçon ! Où est l'été ?", "Größe, Straße, Übermut", "Señor, ¿qué pasó?", "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň", "İstanbul ığüşöç", "Привет, как дела?", "Ελληνικά: Καλημέρα κόσμε", "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया", "வணக்கம் உலகம்", "สวัสดีชาวโลก", "你好，世界。", "こんにちは、世界！カタカナ", "안녕하세요 세계", "Tiếng Việt: xin chào",
    "ქართული ენა", "Հայերեն լեզու", "አማርኛ", "ខ្មែរ", "𐌰𐌱𐌲 gothic", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𠜎𠜱𠝹",
    # combining marks, both normal forms, joiners
    "e\u0301 é", "a\u0308 ä", "n\u0303o\u0308", "Z\u0351\u036b\u0343a\u0363\u0348l\u0348g\u0321o\u0321", "ﬁ ﬂ ﬀ",
    "क्‍ष", "\u202eRTL\u202c",
    # emoji
    "😀", "😀😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "❤️ ☎️", "a😀b", " 😀 ", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "😀 text 🚀\n",
    # edges of UTF-8 lengths
    "\x7f\u0080", "\u07ff\u0800", "\uffff", "\U00010000", "\U0010ffff", "\ud7ff\ue000",
    # the added token, alone and within text
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", " <|endoftext|> x", "<|endoftext|",
    "<|ENDOFTEXT|>",
    # long runs
    "a" * 500, " " * 300, "\n" * 100, "ab" * 250, "the " * 120, "!" * 257, "1" * 300, "é" * 150, "😀" * 60,
    " " * 17 + "x" + " " * 33, ("word" * 50 + " ") * 4, "A" * 64 + "a" * 64,
]


def shakespeare_texts(rng, n=200):
    """Texts of the 65 characters of tinyshakespeare alone."""
    characters = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
    texts = list(ENGLISH) + list(characters) + [characters, "a" * 1000, " " * 500, "\n" * 300]
    while len(texts) < n:
        texts.append("".join(rng.choices(characters, k=rng.randrange(1, 200))))
    return texts


def tiny_texts(rng, n=250):
    """Any text: every byte of UTF-8 has a token."""
    texts = ENGLISH + CORNERS
    pieces = [text for text in texts if len(text) < 60]
    while len(texts) < n:
        joint = rng.choice(["", " ", "\n", "  "])
        texts.append(joint.join(rng.choices(pieces, k=rng.randrange(2, 8))))
    return texts
